# Mirrors src_c/fastreg.h.
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "fastreg.h" nogil:
    ctypedef enum fr_status:
        FR_OK
        FR_BAD_ARGUMENT
        FR_NO_MEMORY
        FR_TOO_LARGE
        FR_NO_BLAS
        FR_NOT_FINITE

    ctypedef enum fr_dtype:
        FR_FLOAT32
        FR_FLOAT64

    const char *fr_activation_name(int id)
    const char *fr_loss_name(int id)
    const char *fr_optimizer_name(int id)
    const char *fr_l1_step_name(int id)
    const char *fr_accuracy_name(int id)
    const char *fr_layer_kind_name(int id)
    const char *fr_setting_name(int id)
    const char *fr_constraint_name(int id)
    const char *fr_status_text(fr_status status)

    ctypedef struct fr_regularizer:
        double l1
        double l2

    ctypedef struct fr_curve:
        double alpha
        double max_value
        double threshold

    ctypedef struct fr_loss_settings:
        double delta
        double quantile
        double label_smoothing
        double alpha
        double gamma
        int from_logits
        int apply_class_balancing

    ctypedef struct fr_groups:
        ptrdiff_t n_groups
        int by_column
        const ptrdiff_t *start
        const ptrdiff_t *rows
        const double *weight

    enum:
        FR_CONSTRAINT_none

    enum:
        FR_LOSS_mean_squared_error

    ctypedef struct fr_constraint:
        int kind
        int per_row
        int per_column
        double low
        double high
        double rate

    ctypedef struct fr_kl:
        double kl, rate

    ctypedef struct fr_layer:
        int kind
        ptrdiff_t n_in
        ptrdiff_t n_out
        int activation
        int use_bias, use_gamma
        int trainable
        double epsilon, momentum
        fr_curve curve
        fr_regularizer kernel
        fr_regularizer bias
        fr_regularizer activity
        fr_kl activity_kl
        fr_groups groups
        int keeps_kernel
        int keeps_bias
        fr_constraint kernel_constraint
        fr_constraint bias_constraint
        double rate, stddev
        uint64_t seed
        int has_seed

    ctypedef struct fr_optimizer:
        int kind
        int l1_step
        double learning_rate
        double weight_decay
        double momentum
        int nesterov
        int amsgrad
        int centered
        double beta_1
        double beta_2
        double rho
        double epsilon
        double initial_accumulator_value
        double learning_rate_power
        double l1
        double l2
        double l2_shrinkage
        double beta
        double clipvalue
        double clipnorm
        double global_clipnorm
        int64_t accumulation
        int averages
        double ema_momentum
        int64_t ema_overwrite

    ctypedef struct fr_data:
        ptrdiff_t n_rows
        const void *x
        const int64_t *start
        const int32_t *column
        const void *y
        const void *weight
        const int64_t *index

    enum:
        FR_LEDGER_SIZE
        FR_MOST_SLOTS

    enum:
        FR_KERNEL
        FR_BIAS
        FR_MOVING_MEAN
        FR_MOVING_VARIANCE

    enum:
        FR_GRADIENT
        FR_WEIGHTS

    void fr_blas_set(void *sgemm, void *dgemm)

    fr_status fr_gemm_choose(const char *name)
    const char *fr_gemm()
    int fr_has_bfloat16()

    fr_status fr_sparse_choose(const char *name)
    const char *fr_sparse()

    fr_status fr_isa_choose(const char *at_most)
    const char *fr_isa()
    const char *fr_isa_built(int number)

    ctypedef struct fr_network:
        pass

    fr_status fr_network_create(fr_network **network, fr_dtype dtype, const fr_layer *layers,
                                ptrdiff_t n_layers)
    void fr_network_destroy(fr_network *network)
    fr_status fr_network_update_layers(fr_network *network, const fr_layer *layers)
    fr_status fr_network_get(const fr_network *network, int slot, ptrdiff_t layer, int part,
                             void *out)
    fr_status fr_network_set(fr_network *network, int slot, ptrdiff_t layer, int part,
                             const void *array)
    int fr_optimizer_slots(const fr_optimizer *optimizer)
    int fr_network_slots(const fr_network *network)
    int FR_COMPUTE_own, FR_COMPUTE_bfloat16
    fr_status fr_network_compute_in(fr_network *network, int compute)
    fr_status fr_network_set_slots(fr_network *network, int n_slots)

    fr_status fr_network_keep(fr_network *network, int n_threads)
    fr_status fr_network_finite(fr_network *network, int n_threads)
    fr_status fr_network_put_back(fr_network *network)

    ctypedef struct fr_schedule:
        int setting
        ptrdiff_t layer
        const double *values

    ctypedef struct fr_watch:
        ptrdiff_t layer
        void *y
        const void *dy

    ctypedef struct fr_training:
        fr_data data
        ptrdiff_t start
        ptrdiff_t stop
        ptrdiff_t batch_size
        int loss
        int accuracy
        fr_loss_settings loss_settings
        fr_optimizer optimizer
        int64_t iteration
        uint64_t seed
        int n_threads
        int part
        void *outputs
        const void *dy
        const fr_watch *watches
        ptrdiff_t n_watches
        const fr_schedule *schedules
        ptrdiff_t n_schedules

    enum:
        FR_WHOLE_STEPS
        FR_TO_GRADIENTS
        FR_FROM_GRADIENTS
        FR_TO_OUTPUTS
        FR_TO_LOSS
        FR_OUTPUTS_TO_GRADIENTS

    fr_status fr_network_train(fr_network *network, const fr_training *training, double *ledger,
                               ptrdiff_t *steps_done)
    fr_status fr_network_evaluate(fr_network *network, const fr_training *evaluation,
                                  double *ledger)
    double fr_network_flops(const fr_network *network)
    fr_status fr_network_forward_data(fr_network *network, const fr_data *data, void *out,
                                      int n_threads)
    fr_status fr_network_active(const fr_network *network, ptrdiff_t layer, double *share)
    fr_status fr_network_density(fr_network *network, ptrdiff_t layer, ptrdiff_t n_rows,
                                 double *density)
    bint fr_is_finite(fr_dtype dtype, ptrdiff_t n, const void *x)
    fr_status fr_network_forward(fr_network *network, ptrdiff_t n_rows, const void *x, void *out,
                                 int n_threads)

    fr_status fr_dense_forward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                               const void *x, const void *kernel, const void *bias, int activation,
                               fr_curve curve, void *y, int n_threads)
    int fr_activation_wants_z(int id)
    fr_status fr_dense_backward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                                const void *x, const void *kernel, const void *y, const void *dy,
                                int activation, fr_curve curve, void *dx, void *dkernel,
                                void *dbias, int n_threads)
    fr_status fr_activation_forward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *z,
                                    int activation, fr_curve curve, void *y)
    fr_status fr_activation_backward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y,
                                     const void *dy, int activation, fr_curve curve,
                                     void *dz)
    fr_status fr_penalty(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r,
                         double *value)
    fr_status fr_penalty_gradient(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r,
                                  void *dw)
    fr_status fr_kl_penalty(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y,
                            fr_kl penalty, double *value, void *dy)
    fr_status fr_group_penalty(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, const void *w,
                               const fr_groups *groups, double *value)
    fr_status fr_group_penalty_gradient(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out,
                                        const void *w, const fr_groups *groups, void *dw)
    fr_status fr_group_prox(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, void *w, double step,
                            double l1, const fr_groups *groups)
    ctypedef struct fr_quadratic:
        ptrdiff_t n, n_out
        const double *h
        const double *l1
        const double *group
    fr_status fr_quadratic_descend(const fr_quadratic *q, double tol, ptrdiff_t max_sweeps,
                                   double *w, double *g, double *residual) nogil
    fr_status fr_loss(fr_dtype dtype, int loss, fr_loss_settings settings, ptrdiff_t rows,
                      ptrdiff_t n, const void *y_true, const void *y_pred, const void *weight,
                      double *value, void *dy)
    fr_status fr_normalize_rows(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x,
                                const void *gamma, const void *beta, double epsilon,
                                int about_zero, void *y)
    fr_status fr_normalize_columns(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x,
                                   const void *mean, const void *variance, const void *gamma,
                                   const void *beta, double epsilon, void *y)
    fr_status fr_noise(fr_dtype dtype, int kind, ptrdiff_t rows, ptrdiff_t n, const void *x,
                       double amount, uint64_t seed, int64_t iteration, ptrdiff_t layer, void *y)
    fr_status fr_update(fr_dtype dtype, const fr_optimizer *optimizer, int64_t iteration,
                        ptrdiff_t n, void *w, const void *dw, void **slots, fr_regularizer r)
