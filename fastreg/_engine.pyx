"""The compiled engine: `Network` and the kernels as functions.

The only module that calls src_c/. Its callers (`functional`, `models`) have checked and converted every
array: here they are C-contiguous and of one dtype. Status codes become exceptions in `_check`.
"""

import contextlib
import os
import threading

import numpy as np
import threadpoolctl

cimport numpy as cnp
from libc.stdlib cimport calloc, free
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport dgemm, sgemm

from fastreg._cfastreg cimport *

from fastreg.errors import unknown_name
from fastreg.inputs import check_group_step, loss_parts, rows_before

cnp.import_array()


# ---- status, names ----

cdef int _check(fr_status status) except -1:
    if status == FR_OK:
        return 0
    text = fr_status_text(status).decode()
    if status == FR_NO_MEMORY:
        raise MemoryError(text)
    if status == FR_TOO_LARGE:
        raise ValueError(text)
    raise RuntimeError(f"fastreg's engine refused a call that its callers should not have made: {text}")


ctypedef const char *(*name_of)(int) noexcept nogil


cdef dict _table(name_of function):
    cdef int number = 0
    table = {}
    while function(number) != NULL:
        table[function(number).decode()] = number
        number += 1
    return table


cdef dict _ACTIVATIONS = _table(fr_activation_name)
cdef dict _LOSSES = _table(fr_loss_name)
cdef dict _OPTIMIZERS = _table(fr_optimizer_name)
cdef dict _L1_STEPS = _table(fr_l1_step_name)
cdef dict _ACCURACIES = _table(fr_accuracy_name)
cdef dict _LAYER_KINDS = _table(fr_layer_kind_name)
cdef dict _CONSTRAINTS = _table(fr_constraint_name)
cdef dict _SETTINGS = _table(fr_setting_name)


cdef int _id(dict table, str argument, name) except -1:
    number = table.get(name)
    if number is None:
        raise unknown_name(argument, name, table)
    return number


def names():
    """The tables of the engine: {"activation": [...], "loss": [...], "optimizer": [...]}."""
    return {
        "activation": list(_ACTIVATIONS),
        "loss": list(_LOSSES),
        "optimizer": list(_OPTIMIZERS),
        "l1_step": list(_L1_STEPS),
        "layer": list(_LAYER_KINDS),
    }


# ---- BLAS and ISA, at import ----

fr_blas_set(<void *>sgemm, <void *>dgemm)

def gemm():
    """Whose matrix products networks run: "native" or "blas"."""
    return fr_gemm().decode()


def has_bfloat16():
    """Whether products can be computed in bfloat16: native ones of a CPU with avx512_bf16."""
    return fr_has_bfloat16() != 0


def sparse():
    """Whether networks leave zeros of kernels out at inference: "auto", "never" or "always"."""
    return fr_sparse().decode()


def isa():
    """The instruction set in use."""
    return fr_isa().decode()


def isas_built():
    """The instruction sets compiled in, weakest first."""
    built, number = [], 0
    while fr_isa_built(number) != NULL:
        built.append(fr_isa_built(number).decode())
        number += 1
    return built


_wanted_isa = os.environ.get("FASTREG_ISA", "")
if fr_isa_choose(_wanted_isa.encode()) != FR_OK:
    raise unknown_name("FASTREG_ISA", _wanted_isa, isas_built())

_wanted_gemm = os.environ.get("FASTREG_GEMM", "")
if fr_gemm_choose(_wanted_gemm.encode()) != FR_OK:
    raise unknown_name("FASTREG_GEMM", _wanted_gemm, ["native", "blas"])


def choose_sparse(str name, argument="name"):
    """For networks made later; "" is "auto"."""
    if fr_sparse_choose(name.encode()) != FR_OK:
        raise unknown_name(argument, name, ["auto", "never", "always"])


choose_sparse(os.environ.get("FASTREG_SPARSE", ""), "FASTREG_SPARSE")


class _BlasLimit:
    """One BLAS thread while any engine call runs; what was set before is put back after the last.

    The engine calls SciPy's BLAS from its own threads. The count is the library's, not the thread's
    (`openblas_set_num_threads_local` sets it for all in pthread builds), so calls that overlap share
    one limit.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        self._libraries = None
        self._before = []

    def libraries(self):
        """threadpoolctl's controllers of the BLAS the engine calls (all, where SciPy's is not told)."""
        if self._libraries is None:
            blas = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
            own = [library for library in blas if "scipy" in os.path.dirname(library.filepath)]
            self._libraries = own or blas
        return self._libraries

    def __enter__(self):
        with self._lock:
            if self._users == 0:
                self._before = [(library, library.get_num_threads()) for library in self.libraries()]
                for library, count in self._before:
                    if count != 1:
                        library.set_num_threads(1)
            self._users += 1

    def __exit__(self, *exception):
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for library, count in self._before:
                    if count != 1:
                        self._put_back(library, count)

    def _put_back(self, library, count):
        try:
            library.set_num_threads(count)
        except BaseException:  # Ctrl-C may arrive before the library was reached
            library.set_num_threads(count)
            raise


_blas_limit = _BlasLimit()
_no_limit = contextlib.nullcontext()


def blas_info():
    """What threadpoolctl says of the BLAS in use: a list of dicts."""
    return [library.info() for library in _blas_limit.libraries()]


# ---- arrays ----

cdef inline void *_data(cnp.ndarray array):
    return cnp.PyArray_DATA(array)


cdef inline void *_data_or_null(array):
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


cdef inline int _type_number(str dtype):
    return cnp.NPY_FLOAT32 if dtype == "float32" else cnp.NPY_FLOAT64


cdef inline fr_dtype _dtype(cnp.ndarray array):
    return FR_FLOAT32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 else FR_FLOAT64


def is_ready(x, dtype, ptrdiff_t n_rows, ptrdiff_t n_columns, bint finite):
    """Whether `x` is what the engine reads as it stands: no conversion, no error to come.

    A plain, aligned, C-contiguous array of `dtype` and of that shape, where -1 is any size but 0; and,
    with `finite`, few enough numbers to look at here, whose sum is finite. False says nothing.
    """
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(x) or not isinstance(dtype, str):
        return False
    array = <cnp.ndarray>x
    if (cnp.PyArray_NDIM(array) != 2 or not cnp.PyArray_ISCARRAY_RO(array)
            or cnp.PyArray_TYPE(array) != _type_number(dtype)):
        return False
    cdef ptrdiff_t rows = cnp.PyArray_DIM(array, 0), columns = cnp.PyArray_DIM(array, 1)
    if rows * columns == 0 or (n_rows >= 0 and rows != n_rows) or (n_columns >= 0 and columns != n_columns):
        return False
    return not finite or (rows * columns <= 4096
                          and fr_is_finite(_dtype(array), rows * columns, _data(array)))


# ---- network ----

# A call this short, some 20 microseconds, holds the GIL: letting it go costs as much as it gives.
cdef double SHORT_FLOPS = 2e6

cdef fr_groups _groups(groups) except *:
    """A view of `inputs.Groups`; None is no groups."""
    cdef fr_groups out
    out.n_groups = out.by_column = 0
    out.weight, out.start, out.rows = NULL, NULL, NULL
    if groups is None:
        return out
    out.by_column = groups.by_column
    out.weight = <const double *>_data(groups.weight)
    out.start = <const ptrdiff_t *>_data(groups.start)
    out.rows = <const ptrdiff_t *>_data(groups.rows)
    out.n_groups = groups.weight.size
    return out


cdef fr_constraint _constraint(described) except *:
    """Of `inputs.Bound`; None is none."""
    cdef fr_constraint out
    out.kind, out.per_row, out.per_column = FR_CONSTRAINT_none, 0, 0
    out.low, out.high, out.rate = 0, 0, 0
    if described is not None:
        out.kind = _id(_CONSTRAINTS, "constraint", described.kind)
        out.per_row, out.per_column = described.per_row, described.per_column
        out.low, out.high, out.rate = described.low, described.high, described.rate
    return out


cdef fr_curve _curve(curve) except *:
    """(alpha, max_value, threshold), or None where the activation has none of them."""
    if curve is None:
        return fr_curve(0, 0, 0)
    return fr_curve(curve[0], curve[1], curve[2])


cdef fr_layer _layer(dict layer) except *:
    cdef fr_layer out
    out.kind = _id(_LAYER_KINDS, "kind", layer["kind"])
    out.n_in, out.n_out = layer["n_in"], layer["n_out"]
    seed = layer.get("seed")
    out.rate, out.stddev = layer.get("rate", 0.0), layer.get("stddev", 0.0)
    out.has_seed = seed is not None
    out.seed = 0 if seed is None else seed
    out.activation = _id(_ACTIVATIONS, "activation", layer.get("activation", "linear"))
    out.curve = _curve(layer.get("curve"))
    out.use_bias, out.use_gamma = layer.get("use_bias", False), layer.get("use_gamma", False)
    out.epsilon, out.momentum = layer.get("epsilon", 0.0), layer.get("momentum", 0.0)
    out.trainable = layer.get("trainable", False)
    out.kernel = fr_regularizer(layer.get("kernel_l1", 0.0), layer.get("kernel_l2", 0.0))
    out.bias = fr_regularizer(layer.get("bias_l1", 0.0), layer.get("bias_l2", 0.0))
    out.activity = fr_regularizer(layer.get("activity_l1", 0.0), layer.get("activity_l2", 0.0))
    out.activity_kl = fr_kl(layer.get("activity_kl", 0.0), layer.get("activity_rate", 0.0))
    out.groups = _groups(layer.get("kernel_groups"))
    out.keeps_kernel = layer.get("keeps_kernel", False)
    out.keeps_bias = layer.get("keeps_bias", False)
    out.kernel_constraint = _constraint(layer.get("kernel_constraint"))
    out.bias_constraint = _constraint(layer.get("bias_constraint"))
    return out


cdef fr_optimizer _optimizer(dict optimizer) except *:
    cdef fr_optimizer out
    out.kind = _id(_OPTIMIZERS, "optimizer", optimizer["kind"])
    out.l1_step = _id(_L1_STEPS, "l1_step", optimizer.get("l1_step", "sign"))
    out.learning_rate = optimizer["learning_rate"]
    out.weight_decay = optimizer.get("weight_decay", 0.0)
    out.momentum = optimizer.get("momentum", 0.0)
    out.nesterov = optimizer.get("nesterov", False)
    out.amsgrad = optimizer.get("amsgrad", False)
    out.centered = optimizer.get("centered", False)
    out.beta_1 = optimizer.get("beta_1", 0.0)
    out.beta_2 = optimizer.get("beta_2", 0.0)
    out.rho = optimizer.get("rho", 0.0)
    out.epsilon = optimizer.get("epsilon", 0.0)
    out.initial_accumulator_value = optimizer.get("initial_accumulator_value", 0.0)
    out.learning_rate_power = optimizer.get("learning_rate_power", 0.0)
    out.l1 = optimizer.get("l1_regularization_strength", 0.0)
    out.l2 = optimizer.get("l2_regularization_strength", 0.0)
    out.l2_shrinkage = optimizer.get("l2_shrinkage_regularization_strength", 0.0)
    out.beta = optimizer.get("beta", 0.0)
    out.clipvalue = optimizer.get("clipvalue") or 0.0
    out.clipnorm = optimizer.get("clipnorm") or 0.0
    out.global_clipnorm = optimizer.get("global_clipnorm") or 0.0
    out.accumulation = optimizer.get("gradient_accumulation_steps") or 0
    out.averages = optimizer.get("use_ema", False)
    out.ema_momentum = optimizer.get("ema_momentum", 0.0)
    out.ema_overwrite = optimizer.get("ema_overwrite_frequency") or 0
    return out


cdef fr_schedule *_schedules(scheduled) except NULL:
    """Views of `training.Scheduled`, to be freed."""
    cdef fr_schedule *out = <fr_schedule *>calloc(len(scheduled), sizeof(fr_schedule))
    cdef ptrdiff_t i
    if out == NULL:
        raise MemoryError()
    try:
        for i, (name, layer, values) in enumerate(scheduled):
            out[i].setting = _id(_SETTINGS, "setting", name)
            out[i].layer = layer
            out[i].values = <const double *>_data(values)
    except BaseException:
        free(out)
        raise
    return out


cdef class Network:
    """A dense network on the compiled engine; `fastreg.reference.Network` is its twin."""

    cdef fr_network *network
    cdef readonly str dtype
    cdef list shapes  # of the weights: (layer, part, shape)
    cdef ptrdiff_t n_layers
    cdef object limit  # what BLAS needs around a call
    cdef bint busy  # a call is at work without the GIL, or weights are half written
    cdef int type_number
    cdef ptrdiff_t n_in, n_out
    cdef bint has_groups  # some trainable kernel has a group penalty
    cdef list own_activities  # (layer, its rows for one of the network, n_out, inputs.OwnActivity)
    cdef dict described  # the optimizer of the last call, and what the engine takes for it
    cdef fr_optimizer optimizer
    cdef object loss_given  # the loss of the last call, and what the engine takes for it
    cdef int loss
    cdef object own_loss  # where it is of Python, as `losses.Custom`
    cdef fr_loss_settings loss_settings
    cdef fr_training last  # the call that `repeat` repeats on other rows
    cdef bint repeats
    cdef readonly int repeated  # steps of the last `repeat`: 0 or 1

    def __cinit__(self, list layers, str dtype):
        self.dtype = dtype
        self.n_layers = len(layers)
        self.limit = _no_limit if gemm() == "native" else _blas_limit
        self.type_number = _type_number(dtype)
        self.n_in = layers[0]["n_in"] * rows_before(layers, -1)
        self.n_out = layers[self.n_layers - 1]["n_out"]
        self.shapes = []
        for number, layer in enumerate(layers):
            one = (layer["n_out"],)
            if layer["kind"] == "dense":
                self.shapes.append((number, FR_KERNEL, (layer["n_in"], layer["n_out"])))
            if layer.get("use_gamma"):
                self.shapes.append((number, FR_KERNEL, one))
            if layer.get("use_bias"):
                self.shapes.append((number, FR_BIAS, one))
            if layer["kind"] == "batch_normalization":
                self.shapes.append((number, FR_MOVING_MEAN, one))
                self.shapes.append((number, FR_MOVING_VARIANCE, one))
        cdef fr_layer *described = self._describe(layers)
        try:
            _check(fr_network_create(
                &self.network, FR_FLOAT32 if dtype == "float32" else FR_FLOAT64, described,
                self.n_layers))
        finally:
            free(described)

    def __dealloc__(self):
        fr_network_destroy(self.network)

    cdef fr_layer *_describe(self, list layers) except NULL:
        cdef fr_layer *described = <fr_layer *>calloc(len(layers) + 1, sizeof(fr_layer))
        if described == NULL:
            raise MemoryError()
        try:
            self.has_groups = False
            self.own_activities = [
                (number, rows_before(layers, number), layer["n_out"], layer["activity_own"])
                for number, layer in enumerate(layers) if layer.get("activity_own") is not None]
            for number, layer in enumerate(layers):
                described[<ptrdiff_t>number] = _layer(layer)
                if layer.get("kernel_groups") is not None and layer["trainable"]:
                    self.has_groups = True
        except BaseException:
            free(described)
            raise
        return described

    def update_layers(self, list layers):
        """Other regularizers, rates and trainable flags for the same layers."""
        cdef fr_layer *described = self._describe(layers)
        try:
            _check(fr_network_update_layers(self.network, described))
        finally:
            free(described)

    cdef list _read(self, int slot):
        arrays = []
        for layer, part, shape in self.shapes:
            array = np.empty(shape, self.dtype)
            _check(fr_network_get(self.network, slot, layer, part, _data(array)))
            arrays.append(array)
        return arrays

    cdef int _write(self, int slot, arrays) except -1:
        self.busy = True
        try:
            for (layer, part, shape), array in zip(self.shapes, arrays, strict=True):
                array = np.ascontiguousarray(array, self.dtype)
                if array.shape != shape:
                    raise ValueError(f"weights: got shape {array.shape}; {shape} is needed")
                _check(fr_network_set(self.network, slot, layer, part, _data(array)))
        finally:
            self.busy = False
        return 0

    def compute_in(self, compute_dtype):
        """What training's products round their operands to: None, or "bfloat16"."""
        _check(fr_network_compute_in(
            self.network, FR_COMPUTE_own if compute_dtype is None else FR_COMPUTE_bfloat16))

    def get_weights(self):
        """Copies of [kernel, bias, kernel, bias, ...]."""
        return self._read(-1)

    def set_weights(self, arrays):
        self._write(-1, arrays)

    def get_slots(self):
        """Copies of the optimizer's state: a list like get_weights() for each slot."""
        return [self._read(slot) for slot in range(fr_network_slots(self.network))]

    def set_slots(self, slots):
        _check(fr_network_set_slots(self.network, len(slots)))
        for slot, arrays in enumerate(slots):
            self._write(slot, arrays)

    def finite(self, int n_threads):
        """Whether all weights are finite."""
        return fr_network_finite(self.network, n_threads) == FR_OK

    def keep(self, int n_threads):
        """Set weights and slots aside; False, and nothing done, if a weight is not finite."""
        cdef fr_status status = fr_network_keep(self.network, n_threads)
        if status == FR_NOT_FINITE:
            return False
        _check(status)
        return True

    def put_back(self):
        """Weights and slots as `keep` set them aside."""
        _check(fr_network_put_back(self.network))

    cdef fr_data _rows(self, x) except *:
        """Plain rows, or `inputs.SparseRows`."""
        cdef fr_data data
        data.n_rows = len(x)
        data.start, data.column = NULL, NULL
        data.y, data.weight, data.index = NULL, NULL, NULL
        if isinstance(x, np.ndarray):
            data.x = _data(x)
        else:
            data.x = _data(x.values)
            data.start = <const int64_t *>_data(x.start)
            data.column = <const int32_t *>_data(x.columns)
        return data

    cdef fr_training _call(self, x, cnp.ndarray y, sample_weight, ptrdiff_t start,
                           ptrdiff_t stop, ptrdiff_t batch_size, loss, accuracy, int n_threads,
                           outputs=None) except *:
        cdef fr_training call
        call.data = self._rows(x)
        call.data.y = _data(y)
        call.data.weight = _data_or_null(sample_weight)
        call.start, call.stop, call.batch_size = start, stop, batch_size
        if loss is not self.loss_given:
            name, settings = loss_parts(loss)
            self.loss_given = None  # what follows may raise
            self.own_loss = loss if settings is None else None
            self.loss = FR_LOSS_mean_squared_error  # of one's own: one that fuses with nothing
            if settings is not None:
                self.loss = _id(_LOSSES, "loss", name)
                self.loss_settings = _loss_settings(settings)
            self.loss_given = loss
        call.loss, call.loss_settings = self.loss, self.loss_settings
        call.accuracy = _id(_ACCURACIES, "accuracy", "none" if accuracy is None else accuracy)
        call.n_threads, call.part = n_threads, FR_WHOLE_STEPS
        call.schedules, call.n_schedules = NULL, 0
        call.watches, call.n_watches = NULL, 0
        call.outputs, call.dy = _data_or_null(outputs), NULL
        return call

    def train(self, x, cnp.ndarray y, sample_weight, index, ptrdiff_t start,
              ptrdiff_t stop, ptrdiff_t batch_size, loss, dict optimizer, int64_t iteration,
              uint64_t seed, accuracy, cnp.ndarray ledger, int n_threads, scheduled=(), extra=(),
              outputs=None):
        """Steps on rows index[start:stop]; returns how many were done (see `reference.Network`).

        `optimizer` must not be written to afterwards: the same dictionary is read once.
        """
        cdef fr_training call = self._call(
            x, y, sample_weight, start, stop, batch_size, loss, accuracy, n_threads, outputs)
        call.data.index = <const int64_t *>_data_or_null(index)
        if self.has_groups:
            check_group_step(optimizer["l1_step"])
        if optimizer is not self.described:
            self.optimizer = _optimizer(optimizer)
            self.described = optimizer
        call.optimizer = self.optimizer
        call.iteration, call.seed = iteration, seed
        cdef double *sums = <double *>_data(ledger)
        cdef ptrdiff_t steps_done = 0
        cdef fr_status status
        cdef fr_schedule *schedules = NULL
        if scheduled:
            call.schedules = schedules = _schedules(scheduled)
            call.n_schedules = len(scheduled)
        try:
            if extra or self.own_activities or self.own_loss is not None:
                rows = (y, sample_weight, index)
                status = self._train_in_parts(&call, extra, rows, sums, &steps_done)
            elif self._is_short(3 * (stop - start)):
                status = fr_network_train(self.network, &call, sums, &steps_done)
            else:
                with self.limit:
                    self.busy = True
                    with nogil:
                        status = fr_network_train(self.network, &call, sums, &steps_done)
                    self.busy = False
        finally:
            free(schedules)
        if status != FR_NOT_FINITE:
            _check(status)
        self.repeats = (steps_done == 1 and sample_weight is None and not scheduled and not extra
                        and self.own_loss is None and not self.own_activities
                        and accuracy is None and outputs is None
                        and cnp.PyArray_TYPE(y) == self.type_number and cnp.PyArray_NDIM(y) == 2)
        self.last = call
        return steps_done

    cdef list _of_extra(self, int slot, extra):
        """The arrays that the penalties are of."""
        found = []
        for each in extra:
            layer, part, shape = self.shapes[each.position]
            array = np.empty(shape, self.dtype)
            _check(fr_network_get(self.network, slot, layer, part, _data(array)))
            found.append(array)
        return found

    cdef int _set_extra(self, int slot, each, array) except -1:
        layer, part, _ = self.shapes[each.position]
        array = np.ascontiguousarray(array, self.dtype)
        _check(fr_network_set(self.network, slot, layer, part, _data(array)))
        return 0

    cdef fr_status _train_in_parts(self, fr_training *call, extra, rows, double *sums,
                                   ptrdiff_t *done) except *:
        """Steps in whose middle Python is asked for the loss of the outputs and the penalties of
        activities, and adds gradients of penalties, `training.Extra`, or after which it takes their
        prox."""
        cdef ptrdiff_t start = call.start, stop = call.stop, first, n, i, steps
        cdef double loss = 0, activity = 0
        cdef cnp.ndarray seen, dy
        cdef bint cut = self.own_loss is not None or len(self.own_activities) > 0
        cdef fr_watch *watches = self._watches(self.own_activities)
        if self.own_loss is not None:
            call.data.weight = NULL  # it is in dy
        cdef int64_t iteration = call.iteration
        cdef char *outputs = <char *>call.outputs
        cdef ptrdiff_t row_bytes = self.n_out * np.dtype(self.dtype).itemsize
        cdef fr_status status = FR_OK
        done[0] = 0
        self.busy = True  # also while Python is at work: weights may be half changed
        try:
            for first in range(start, stop, call.batch_size):
                n = min(call.batch_size, stop - first)
                call.start, call.stop, call.iteration = first, first + n, iteration + done[0]
                if outputs != NULL:
                    call.outputs = outputs + (first - start) * row_bytes
                call.part, call.dy = FR_TO_GRADIENTS, NULL
                if cut:
                    call.part = FR_TO_LOSS
                    if self.own_loss is not None:
                        seen = np.empty((n, self.n_out), self.dtype)  # theirs to keep
                        call.part, call.outputs = FR_TO_OUTPUTS, _data(seen)
                    activities = self._watch(watches, n)
                    call.watches, call.n_watches = watches, len(activities)
                    with self.limit:
                        with nogil:
                            status = fr_network_train(self.network, call, sums, &steps)
                    if status != FR_OK:
                        return status
                    if self.own_loss is not None:
                        if outputs != NULL:
                            memcpy(outputs + (first - start) * row_bytes, _data(seen), n * row_bytes)
                        loss, dy = self.own_loss.step(seen, *_batch_of(rows, first, n))
                        call.dy = _data(dy)
                    found = [own[3].step(y) for own, y in zip(self.own_activities, activities)]
                    activity = sum([value for value, _ in found])
                    for i, (_, gradient) in enumerate(found):
                        watches[i].dy = _data(<cnp.ndarray>gradient)
                    if not isfinite(loss + activity):
                        return FR_NOT_FINITE
                    call.part = FR_OUTPUTS_TO_GRADIENTS
                with self.limit:
                    with nogil:
                        status = fr_network_train(self.network, call, sums, &steps)
                if status != FR_OK:
                    return status
                weights = self._of_extra(FR_WEIGHTS, extra)
                gradients = self._of_extra(FR_GRADIENT, extra)
                values = [each.regularizer.value(w) for each, w in zip(extra, weights)]
                if not np.isfinite(values).all():
                    return FR_NOT_FINITE
                for each, w, gradient in zip(extra, weights, gradients):
                    if each.steps is None:
                        self._set_extra(FR_GRADIENT, each, gradient + each.regularizer.gradient(w))
                call.part = FR_FROM_GRADIENTS
                with self.limit:
                    with nogil:
                        status = fr_network_train(self.network, call, sums, &steps)
                if status != FR_OK:
                    return status
                sums[0] += loss
                sums[3] += activity
                for each, value in zip(extra, values):
                    sums[<ptrdiff_t>each.entry] += n * <double>value
                for each, w in zip(extra, self._of_extra(FR_WEIGHTS, extra)):
                    if each.steps is not None:
                        self._set_extra(FR_WEIGHTS, each, each.regularizer.prox(w, float(each.steps[done[0]])))
                for i in range(call.n_schedules):
                    (<fr_schedule *>&call.schedules[i]).values += 1
                done[0] += 1
        finally:
            self.busy = False
            call.watches, call.n_watches = NULL, 0
            free(watches)
        return status

    cdef fr_watch *_watches(self, activities) except NULL:
        """Room for those, to be freed."""
        cdef fr_watch *out = <fr_watch *>calloc(len(activities) + 1, sizeof(fr_watch))
        if out == NULL:
            raise MemoryError()
        return out

    cdef list _watch(self, fr_watch *watches, ptrdiff_t n_rows):
        """Have the outputs of n_rows rows put into new arrays, which are returned."""
        arrays = []
        for i, (layer, times, n_out, _) in enumerate(self.own_activities):
            arrays.append(np.empty((n_rows * times, n_out), self.dtype))
            watches[<ptrdiff_t>i].layer = layer
            watches[<ptrdiff_t>i].y = _data(<cnp.ndarray>arrays[i])
        return arrays

    def repeat(self, x, y, int64_t iteration):
        """The last `train`, if it was one step, on other rows: the loss; None: go the long way.

        For a few plain, finite rows. As `answer` it needs no lock; `repeated` tells of a step that was
        interrupted as it returned.
        """
        self.repeated = 0
        if (self.busy or not self.repeats or not is_ready(x, self.dtype, -1, self.n_in, True)
                or not is_ready(y, self.dtype, len(x), self.n_out, True)):
            return None
        cdef fr_training call = self.last
        cdef ptrdiff_t n = cnp.PyArray_DIM(<cnp.ndarray>x, 0), steps_done = 0
        cdef double[FR_LEDGER_SIZE] sums
        if not self._is_short(3 * n):
            return None
        memset(sums, 0, sizeof(sums))
        call.data = self._rows(x)
        call.data.y = _data(y)
        call.start, call.stop, call.batch_size, call.iteration = 0, n, n, iteration
        cdef fr_status status = fr_network_train(self.network, &call, sums, &steps_done)
        if status == FR_NOT_FINITE:
            return None  # the long way says so
        _check(status)
        self.repeated = 1
        return sums[0] / n + sums[1] / n + sums[2] / n + sums[3] / n

    def evaluate(self, x, cnp.ndarray y, sample_weight, ptrdiff_t start,
                 ptrdiff_t stop, ptrdiff_t batch_size, loss, accuracy, cnp.ndarray ledger,
                 int n_threads, outputs=None):
        """Adds losses, penalties and accuracy of rows start..stop to the ledger."""
        cdef fr_training call = self._call(
            x, y, sample_weight, start, stop, batch_size, loss, accuracy, n_threads, outputs)
        cdef double *sums = <double *>_data(ledger)
        cdef fr_status status
        cdef cnp.ndarray seen = outputs
        cdef ptrdiff_t first, n
        if self.own_loss is not None:
            if seen is None:
                seen = np.empty((stop - start, self.n_out), self.dtype)
            call.part, call.outputs = FR_TO_OUTPUTS, _data(seen)
        cdef fr_watch *watches = self._watches(self.own_activities)
        try:
            activities = self._watch(watches, stop - start)
            call.watches, call.n_watches = watches, len(activities)
            with self.limit:
                self.busy = True
                with nogil:
                    status = fr_network_evaluate(self.network, &call, sums)
                self.busy = False
        finally:
            free(watches)
        _check(status)
        for first in range(start, stop, batch_size):
            n = min(batch_size, stop - first)
            for (_, times, _, own), y_l in zip(self.own_activities, activities):
                sums[3] += own.value(y_l[(first - start) * times:(first - start + n) * times].copy())
            if self.own_loss is None:
                continue
            y_b, weight_b = _batch_of((y, sample_weight, None), first, n)
            sums[0] += self.own_loss.total(seen[first - start:first - start + n], y_b, weight_b)

    def forward(self, x, ptrdiff_t batch_size, cnp.ndarray out, int n_threads):
        """out = the network's output for x. The engine cuts panels of its own: batch_size is the twin's."""
        cdef fr_data data = self._rows(x)
        cdef void *out_data = _data(out)
        cdef fr_status status
        with self.limit:
            self.busy = True
            with nogil:
                status = fr_network_forward_data(self.network, &data, out_data, n_threads)
            self.busy = False
        _check(status)

    def densities(self, ptrdiff_t n_rows):
        """Of each layer: the share of nonzero weights where inference on n_rows rows runs on them
        alone, else 1."""
        found = []
        cdef double density = 1
        for layer in range(self.n_layers):
            _check(fr_network_density(self.network, layer, n_rows, &density))
            found.append(density)
        return found

    def active_shares(self):
        """Of each layer: the share of its outputs that were not 0 in the last step of training, where that
        ran on these alone, else 1."""
        found = []
        cdef double share = 1
        for layer in range(self.n_layers):
            _check(fr_network_active(self.network, layer, &share))
            found.append(share)
        return found

    cdef inline bint _is_short(self, ptrdiff_t n_rows):
        return self.limit is _no_limit and n_rows * fr_network_flops(self.network) <= SHORT_FLOPS

    def answer(self, x, out):
        """`forward` for a few rows that need no check, in about a microsecond; None: go the long way.

        Needs no lock: the GIL is held, and a call that works without it has set `busy`.
        """
        cdef cnp.ndarray rows
        cdef cnp.npy_intp shape[2]
        if self.busy or not cnp.PyArray_CheckExact(x):
            return None
        rows = <cnp.ndarray>x
        if (cnp.PyArray_NDIM(rows) != 2 or cnp.PyArray_TYPE(rows) != self.type_number
                or cnp.PyArray_DIM(rows, 1) != self.n_in or cnp.PyArray_DIM(rows, 0) == 0
                or not cnp.PyArray_ISCARRAY_RO(rows)
                or not self._is_short(cnp.PyArray_DIM(rows, 0))):
            return None
        shape[0], shape[1] = cnp.PyArray_DIM(rows, 0), self.n_out
        if out is None:
            out = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        elif not self._fits(out, rows):
            return None
        _check(fr_network_forward(self.network, shape[0], _data(rows), _data(<cnp.ndarray>out), 1))
        return out

    cdef bint _fits(self, out, cnp.ndarray rows) except -1:
        if not cnp.PyArray_CheckExact(out):
            return False
        cdef cnp.ndarray array = <cnp.ndarray>out
        if (cnp.PyArray_NDIM(array) != 2 or cnp.PyArray_TYPE(array) != self.type_number
                or cnp.PyArray_DIM(array, 0) != cnp.PyArray_DIM(rows, 0)
                or cnp.PyArray_DIM(array, 1) != self.n_out or not cnp.PyArray_ISCARRAY(array)):
            return False
        cdef char *here = <char *>_data(array)
        cdef char *there = <char *>_data(rows)
        return here + cnp.PyArray_NBYTES(array) <= there or there + cnp.PyArray_NBYTES(rows) <= here


# ---- the kernels as functions; docstrings stand in functional.py ----

def dense_forward(cnp.ndarray x, cnp.ndarray kernel, bias, activation, curve, cnp.ndarray out,
                  int n_threads):
    cdef int number = _id(_ACTIVATIONS, "activation", activation)
    cdef fr_curve parameters = _curve(curve)
    cdef ptrdiff_t n_batch = x.shape[0], n_in = x.shape[1], n_out = kernel.shape[1]
    cdef fr_dtype dtype = _dtype(x)
    cdef void *bias_data = _data_or_null(bias)
    cdef void *x_data = _data(x)
    cdef void *kernel_data = _data(kernel)
    cdef void *out_data = _data(out)
    cdef fr_status status
    with _blas_limit:
        with nogil:
            status = fr_dense_forward(dtype, n_batch, n_in, n_out, x_data, kernel_data, bias_data,
                                      number, parameters, out_data, n_threads)
    _check(status)


def wants_z(activation):
    """Whether the backward functions take z as their y."""
    return bool(fr_activation_wants_z(_id(_ACTIVATIONS, "activation", activation)))


def dense_backward(cnp.ndarray x, cnp.ndarray kernel, cnp.ndarray y, cnp.ndarray dy, activation,
                   curve, dx, cnp.ndarray dkernel, cnp.ndarray dbias, int n_threads):
    cdef int number = _id(_ACTIVATIONS, "activation", activation)
    cdef fr_curve parameters = _curve(curve)
    cdef ptrdiff_t n_batch = x.shape[0], n_in = x.shape[1], n_out = kernel.shape[1]
    cdef fr_dtype dtype = _dtype(x)
    cdef void *dx_data = _data_or_null(dx)
    cdef void *x_data = _data(x)
    cdef void *kernel_data = _data(kernel)
    cdef void *y_data = _data(y)
    cdef void *dy_data = _data(dy)
    cdef void *dkernel_data = _data(dkernel)
    cdef void *dbias_data = _data(dbias)
    cdef fr_status status
    with _blas_limit:
        with nogil:
            status = fr_dense_backward(dtype, n_batch, n_in, n_out, x_data, kernel_data, y_data,
                                       dy_data, number, parameters, dx_data, dkernel_data,
                                       dbias_data, n_threads)
    _check(status)


cdef inline ptrdiff_t _rows(cnp.ndarray array):
    """Rows of an array whose last axis is a row."""
    return array.size // array.shape[array.ndim - 1] if array.size else 0


def activation_forward(cnp.ndarray z, activation, curve, cnp.ndarray out):
    _check(fr_activation_forward(_dtype(z), _rows(z), z.shape[z.ndim - 1], _data(z),
                                 _id(_ACTIVATIONS, "activation", activation), _curve(curve),
                                 _data(out)))


def activation_backward(cnp.ndarray y, cnp.ndarray dy, activation, curve, cnp.ndarray out):
    if _data(y) == _data(out):  # dy goes there first
        y = y.copy()
    _check(fr_activation_backward(_dtype(y), _rows(y), y.shape[y.ndim - 1], _data(y), _data(dy),
                                  _id(_ACTIVATIONS, "activation", activation), _curve(curve),
                                  _data(out)))


def penalty(cnp.ndarray w, double l1, double l2):
    cdef double value = 0
    _check(fr_penalty(_dtype(w), w.size, _data(w), fr_regularizer(l1, l2), &value))
    return value


def penalty_gradient(cnp.ndarray w, double l1, double l2, cnp.ndarray out):
    _check(fr_penalty_gradient(_dtype(w), w.size, _data(w), fr_regularizer(l1, l2), _data(out)))


def kl_penalty(cnp.ndarray y, double kl, double rate):
    cdef double value = 0
    _check(fr_kl_penalty(_dtype(y), y.shape[0], y.shape[1], _data(y), fr_kl(kl, rate), &value, NULL))
    return value


def kl_penalty_gradient(cnp.ndarray y, double kl, double rate, cnp.ndarray out):
    _check(fr_kl_penalty(_dtype(y), y.shape[0], y.shape[1], _data(y), fr_kl(kl, rate), NULL, _data(out)))


def group_penalty(cnp.ndarray w, groups):
    cdef fr_groups described = _groups(groups)
    cdef double value = 0
    _check(fr_group_penalty(_dtype(w), w.shape[0], w.shape[1], _data(w), &described, &value))
    return value


def group_penalty_gradient(cnp.ndarray w, groups, cnp.ndarray out):
    cdef fr_groups described = _groups(groups)
    _check(fr_group_penalty_gradient(_dtype(w), w.shape[0], w.shape[1], _data(w), &described,
                                     _data(out)))


def group_prox(double step, groups, double l1, cnp.ndarray out):
    """In place."""
    cdef fr_groups described = _groups(groups)
    _check(fr_group_prox(_dtype(out), out.shape[0], out.shape[1], _data(out), step, l1, &described))


def quadratic_descend(cnp.ndarray h, cnp.ndarray l1, cnp.ndarray group, double tol,
                      ptrdiff_t max_sweeps, cnp.ndarray w, cnp.ndarray g):
    """Moves w and g, (n_out, n); returns the residual."""
    cdef fr_quadratic q
    cdef double residual = 0
    cdef double *w_ = <double *>_data(w)
    cdef double *g_ = <double *>_data(g)
    cdef fr_status status
    q.n, q.n_out = w.shape[1], w.shape[0]
    q.h, q.l1 = <const double *>_data(h), <const double *>_data(l1)
    q.group = <const double *>_data(group)
    with nogil:
        status = fr_quadratic_descend(&q, tol, max_sweeps, w_, g_, &residual)
    _check(status)
    return residual


cdef tuple _batch_of(rows, ptrdiff_t first, ptrdiff_t n):
    """(y, sample_weight) of n rows, from index[first] on, that nobody can write to."""
    y, weight, index = rows
    at = slice(first, first + n) if index is None else index[first:first + n]
    found = y[at]
    found.flags.writeable = False
    return found, None if weight is None else weight[at]


cdef fr_loss_settings _loss_settings(settings) except *:
    cdef fr_loss_settings s
    (s.delta, s.quantile, s.label_smoothing, s.alpha, s.gamma, s.from_logits,
     s.apply_class_balancing) = settings
    return s


def loss(name, settings, cnp.ndarray y_true, cnp.ndarray y_pred, sample_weight):
    cdef double value = 0
    _check(fr_loss(_dtype(y_pred), _id(_LOSSES, "name", name), _loss_settings(settings),
                   y_pred.shape[0], y_pred.shape[1], _data(y_true), _data(y_pred),
                   _data_or_null(sample_weight), &value, NULL))
    return value


def loss_gradient(name, settings, cnp.ndarray y_true, cnp.ndarray y_pred, sample_weight,
                  cnp.ndarray out):
    _check(fr_loss(_dtype(y_pred), _id(_LOSSES, "name", name), _loss_settings(settings),
                   y_pred.shape[0], y_pred.shape[1], _data(y_true), _data(y_pred),
                   _data_or_null(sample_weight), NULL, _data(out)))


def normalize_rows(cnp.ndarray x, gamma, beta, double epsilon, cnp.ndarray out, bint about_zero=False):
    _check(fr_normalize_rows(_dtype(x), x.shape[0], x.shape[1], _data(x), _data_or_null(gamma),
                             _data_or_null(beta), epsilon, about_zero, _data(out)))


def normalize_columns(cnp.ndarray mean, cnp.ndarray variance, cnp.ndarray x, gamma, beta,
                      double epsilon, cnp.ndarray out):
    _check(fr_normalize_columns(_dtype(x), x.shape[0], x.shape[1], _data(x), _data(mean),
                                _data(variance), _data_or_null(gamma), _data_or_null(beta), epsilon,
                                _data(out)))


def noise(str kind, cnp.ndarray x, double amount, uint64_t seed, int64_t iteration, ptrdiff_t layer,
          cnp.ndarray out):
    """A layer of noise; amount: its rate, or its standard deviation."""
    _check(fr_noise(_dtype(x), _id(_LAYER_KINDS, "kind", kind), _rows(x), x.shape[x.ndim - 1],
                    _data(x), amount, seed, iteration, layer, _data(out)))


def update(cnp.ndarray w, cnp.ndarray dw, list slots, dict optimizer, int64_t iteration, double l1,
           double l2):
    """A regularized step in place; slots: the optimizer's, then those of the cumulative L1 step."""
    cdef fr_optimizer described = _optimizer(optimizer)
    cdef void *data[FR_MOST_SLOTS]
    cdef int number
    if len(slots) != fr_optimizer_slots(&described):
        raise ValueError(f"slots: got {len(slots)} arrays; {fr_optimizer_slots(&described)} are needed")
    for number in range(len(slots)):
        data[number] = _data(slots[number])
    _check(fr_update(_dtype(w), &described, iteration, w.size, _data(w), _data(dw), data,
                     fr_regularizer(l1, l2)))
