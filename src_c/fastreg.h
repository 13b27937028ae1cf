/* fastreg: the contract of the C engine.
 *
 * Everything that a caller may use stands here; nothing here knows Python. Matrices are row-major; a
 * kernel is (n_in, n_out). All sizes are ptrdiff_t, in elements. `real` below means float or double as
 * the dtype says. Every call that can fail returns an fr_status and has then written nothing.
 */
#ifndef FASTREG_H
#define FASTREG_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    FR_OK = 0,
    FR_BAD_ARGUMENT, /* a size, id or pointer that the contract rules out */
    FR_NO_MEMORY,
    FR_TOO_LARGE, /* a size that overflows ptrdiff_t, or the int of BLAS */
    FR_NO_BLAS,   /* fr_blas_set was not called */
    FR_NOT_FINITE /* the loss of a step was NaN or infinite; that step changed nothing */
} fr_status;

typedef enum { FR_FLOAT32 = 0, FR_FLOAT64 = 1 } fr_dtype;

/* The tables. An entry is its name here, its body in kernels/, and nothing else in C. */
#define FR_ACTIVATIONS(ENTRY) FR_OUTPUT_ACTIVATIONS(ENTRY) FR_CURVES(ENTRY)
/* f'(z) follows from the output y */
#define FR_OUTPUT_ACTIVATIONS(ENTRY)                                                               \
    ENTRY(linear) ENTRY(relu) ENTRY(tanh) ENTRY(sigmoid) ENTRY(softmax) ENTRY(log_softmax)
/* f'(z) is computed with y and kept */
#define FR_CURVES(ENTRY)                                                                           \
    ENTRY(leaky_relu)                                                                              \
    ENTRY(relu6)                                                                                   \
    ENTRY(elu)                                                                                     \
    ENTRY(selu)                                                                                    \
    ENTRY(exponential)                                                                             \
    ENTRY(softplus)                                                                                \
    ENTRY(softsign)                                                                                \
    ENTRY(hard_sigmoid)                                                                            \
    ENTRY(hard_silu)                                                                               \
    ENTRY(silu)                                                                                    \
    ENTRY(gelu)                                                                                    \
    ENTRY(gelu_tanh)                                                                               \
    ENTRY(mish)
#define FR_LOSSES(ENTRY)                                                                           \
    ENTRY(mean_squared_error)                                                                      \
    ENTRY(binary_crossentropy)                                                                     \
    ENTRY(categorical_crossentropy)                                                                \
    ENTRY(sparse_categorical_crossentropy)                                                         \
    ENTRY(mean_absolute_error)                                                                     \
    ENTRY(mean_absolute_percentage_error)                                                          \
    ENTRY(mean_squared_logarithmic_error)                                                          \
    ENTRY(log_cosh)                                                                                \
    ENTRY(poisson)                                                                                 \
    ENTRY(kl_divergence)                                                                           \
    ENTRY(hinge)                                                                                   \
    ENTRY(squared_hinge)                                                                           \
    ENTRY(categorical_hinge)                                                                       \
    ENTRY(cosine_similarity)                                                                       \
    ENTRY(huber)                                                                                   \
    ENTRY(quantile)                                                                                \
    ENTRY(binary_focal_crossentropy)
#define FR_OPTIMIZERS(ENTRY)                                                                       \
    ENTRY(sgd)                                                                                     \
    ENTRY(adam)                                                                                    \
    ENTRY(adamax)                                                                                  \
    ENTRY(nadam)                                                                                   \
    ENTRY(rmsprop)                                                                                 \
    ENTRY(adagrad)                                                                                 \
    ENTRY(adadelta)                                                                                \
    ENTRY(lion)                                                                                    \
    ENTRY(ftrl)
/* How an optimizer applies the L1 part of a kernel's or bias' regularizer; all but sign reach exact zeros. */
#define FR_L1_STEPS(ENTRY) ENTRY(sign) ENTRY(proximal) ENTRY(cumulative)
#define FR_ACCURACIES(ENTRY) ENTRY(none) ENTRY(binary) ENTRY(categorical) ENTRY(sparse_categorical)
/* norm: w *= (rate clip(|w|, low, high) + (1 - rate) |w|) / (1e-7 + |w|), |w| the Euclidean norm. */
#define FR_CONSTRAINTS(ENTRY) ENTRY(none) ENTRY(non_neg) ENTRY(norm)
/* activation: f alone, and penalties of activities. flatten: n_out / n_in rows become one; of a network's row every layer
 * before it has so many. */
#define FR_LAYER_KINDS(ENTRY)                                                                      \
    ENTRY(dense) ENTRY(activation) FR_NOISES(ENTRY) ENTRY(layer_normalization) ENTRY(rms_normalization)      \
        ENTRY(batch_normalization) ENTRY(flatten)
#define FR_NOISES(ENTRY) ENTRY(dropout) ENTRY(gaussian_noise) ENTRY(gaussian_dropout) ENTRY(alpha_dropout)
/* What may change from step to step: the optimizer's, layers', noise's. */
#define FR_SETTINGS(ENTRY)                                                                         \
    ENTRY(learning_rate)                                                                           \
    ENTRY(kernel_l1)                                                                               \
    ENTRY(kernel_l2) ENTRY(bias_l1) ENTRY(bias_l2) ENTRY(activity_l1) ENTRY(activity_l2)      \
        ENTRY(activity_kl) ENTRY(rate) ENTRY(stddev)

#define FR_CONSTRAINT_ID(name) FR_CONSTRAINT_##name,
#define FR_SETTING_ID(name) FR_SETTING_##name,
#define FR_ACTIVATION_ID(name) FR_ACTIVATION_##name,
#define FR_LOSS_ID(name) FR_LOSS_##name,
#define FR_OPTIMIZER_ID(name) FR_OPTIMIZER_##name,
#define FR_L1_STEP_ID(name) FR_L1_STEP_##name,
#define FR_ACCURACY_ID(name) FR_ACCURACY_##name,
#define FR_LAYER_KIND_ID(name) FR_LAYER_##name,
enum { FR_ACTIVATIONS(FR_ACTIVATION_ID) FR_N_ACTIVATIONS };
enum { FR_LOSSES(FR_LOSS_ID) FR_N_LOSSES };
enum { FR_OPTIMIZERS(FR_OPTIMIZER_ID) FR_N_OPTIMIZERS };
enum { FR_L1_STEPS(FR_L1_STEP_ID) FR_N_L1_STEPS };
enum { FR_ACCURACIES(FR_ACCURACY_ID) FR_N_ACCURACIES };
enum { FR_CONSTRAINTS(FR_CONSTRAINT_ID) FR_N_CONSTRAINTS };
enum { FR_LAYER_KINDS(FR_LAYER_KIND_ID) FR_N_LAYER_KINDS };
enum { FR_SETTINGS(FR_SETTING_ID) FR_N_SETTINGS };

/* The name of entry `id` of a table, NULL past its end: how callers map names to ids. */
const char *fr_activation_name(int id);
const char *fr_loss_name(int id);
const char *fr_optimizer_name(int id);
const char *fr_l1_step_name(int id);
const char *fr_accuracy_name(int id);
const char *fr_layer_kind_name(int id);
const char *fr_constraint_name(int id);
const char *fr_setting_name(int id);
const char *fr_status_text(fr_status status);

/* What some activations have beside z. elu: alpha (exp(z) - 1) below 0. leaky_relu: alpha (z - threshold) up
 * to the threshold, z above it, max_value where z is larger. */
typedef struct {
    double alpha, max_value, threshold;
} fr_curve;

/* What some losses have beside targets and outputs; the others read none of it. */
typedef struct {
    double delta;           /* huber: where the square ends, above 0 */
    double quantile;        /* quantile: in (0, 1) */
    double label_smoothing; /* crossentropies but the sparse: in [0, 1], the share that targets lose to all classes */
    double alpha, gamma;    /* binary_focal_crossentropy: weight of the targets 1, in [0, 1]; power, 0 or more */
    int from_logits;        /* crossentropies: outputs are z of a sigmoid or softmax that is the loss' own */
    int apply_class_balancing; /* binary_focal_crossentropy: whether alpha counts */
} fr_loss_settings;

/* penalty(x) = l1 sum|x| + l2 sum x^2, gradient l1 sign(x) + 2 l2 x with sign(0) = 0. */
typedef struct {
    double l1, l2;
} fr_regularizer;

/* penalty(y) of a batch's n rows = kl n sum over units of KL(rate || m), m a unit's mean over the rows, and KL(p || m) =
 * p log(p / m) + (1 - p) log((1 - p) / (1 - m)), of means in [1e-7, 1 - 1e-7]; m beyond counts as the nearest of these,
 * and has the gradient 0 (Ng 2011, CS294A: Sparse autoencoder). Divided by n, as all penalties of activities, it is his. */
typedef struct {
    double kl, rate; /* rate in (0, 1); 0: none */
} fr_kl;

/* penalty(kernel) += sum of weight[g] times the Euclidean norm of group g, gradient weight[g] w / norm and
 * 0 where the norm is: Yuan & Lin 2006, where weight[g] is a coefficient times the root of the group's size.
 * With an l1 beside it: the sparse group lasso (Simon, Friedman, Hastie & Tibshirani 2013). */
typedef struct {
    ptrdiff_t n_groups;   /* 0: no such penalty */
    int by_column;        /* the groups are the n_out columns; else rows of the kernel: */
    const ptrdiff_t *start; /* (n_groups + 1) group g is rows[start[g]] to rows[start[g + 1] - 1] */
    const ptrdiff_t *rows;  /* (n_in) every row once; those from start[n_groups] on are in no group */
    const double *weight; /* (n_groups) >= 0 */
} fr_groups;

/* What a kernel or bias is brought back to after every step of training. */
typedef struct {
    int kind; /* FR_CONSTRAINT_... */
    int per_row, per_column; /* of a kernel: norms are those of rows, of columns; neither: of all of it */
    double low, high, rate;
} fr_constraint;

typedef struct {
    int kind; /* FR_LAYER_... */
    ptrdiff_t n_in, n_out;
    /* dense, activation */
    int activation;
    fr_curve curve;
    fr_regularizer activity;
    fr_kl activity_kl;
    /* dense; and normalization, whose gamma is a kernel of one row where use_gamma, and whose beta a bias */
    int use_bias, use_gamma, trainable;
    fr_regularizer kernel, bias;
    fr_groups groups; /* of the kernel; copied */
    int keeps_kernel, keeps_bias; /* out of the decoupled weight decay */
    fr_constraint kernel_constraint, bias_constraint;
    double epsilon; /* normalization, 1 / sqrt(variance + epsilon) */
    double momentum; /* batch_normalization: moving = momentum moving + (1 - momentum) the batch's */
    /* noise: `seed` replaces the call's seed when has_seed */
    double rate, stddev;
    uint64_t seed;
    int has_seed;
} fr_layer;

/* Keras' forms; a field that an optimizer does not have is not read.
 * weight_decay is decoupled: w -= learning_rate * weight_decay * w, before the update. */
typedef struct {
    int kind; /* FR_OPTIMIZER_... */
    int l1_step;
    double learning_rate, weight_decay;
    double momentum; /* below 1, but for l1_step sign */
    int nesterov, amsgrad, centered;
    double beta_1, beta_2, rho, epsilon;
    double initial_accumulator_value;
    /* ftrl: n^-power, its own l1 and l2 */
    double learning_rate_power, l1, l2, l2_shrinkage, beta;
    /* Of a network's steps; 0 is none of it. Bounds of a gradient with its regularizer's, at most one: of an
     * element, of an array's Euclidean norm, of the norm of all. */
    double clipvalue, clipnorm, global_clipnorm;
    int64_t accumulation; /* batches whose mean gradient makes one update; an iteration is still a batch */
    int averages;         /* keep a running mean of the weights, with ema_momentum */
    double ema_momentum;
    int64_t ema_overwrite; /* updates after which the weights become their mean, again and again */
} fr_optimizer;

/* The rows a network trains on or is evaluated on. */
typedef struct {
    ptrdiff_t n_rows;
    const void *x;        /* real (n_rows, n_in); with `start`, not before a flatten, the values alone */
    const int64_t *start; /* (n_rows + 1) of each row's values, or NULL for plain rows */
    const int32_t *column; /* in [0, n_in), rising within a row */
    const void *y;        /* real (n_rows, n_out), or int32 (n_rows) where the loss takes labels */
    const void *weight;   /* real (n_rows), or NULL for all 1 */
    const int64_t *index; /* (n_rows) order in which rows are visited, or NULL for 0, 1, 2, ... */
} fr_data;

/* Sums over rows (n of them) or over batches weighted by their rows; calls add to them. */
enum {
    FR_LEDGER_DATA_LOSS,
    FR_LEDGER_KERNEL_PENALTY,
    FR_LEDGER_BIAS_PENALTY,
    FR_LEDGER_ACTIVITY_PENALTY,
    FR_LEDGER_CORRECT,
    FR_LEDGER_ROWS,
    FR_LEDGER_SIZE
};

/* ---- the BLAS the engine was handed: Fortran gemm, as in scipy.linalg.cython_blas ---- */
typedef void fr_sgemm(char *ta, char *tb, int *m, int *n, int *k, float *alpha, float *a, int *lda,
                      float *b, int *ldb, float *beta, float *c, int *ldc);
typedef void fr_dgemm(char *ta, char *tb, int *m, int *n, int *k, double *alpha, double *a, int *lda,
                      double *b, int *ldb, double *beta, double *c, int *ldc);
void fr_blas_set(fr_sgemm *sgemm, fr_dgemm *dgemm);

/* ---- products: "native" (the default where there are vectors) or "blas"; for networks made later ---- */
fr_status fr_gemm_choose(const char *name); /* NULL or "": the default of the ISA in use */
const char *fr_gemm(void);

/* ---- zeros of kernels at inference, and of activations in training: "auto" leaves them out where that is
 * faster, "never", "always"; for networks made later ---- */
fr_status fr_sparse_choose(const char *name); /* NULL or "": auto */
const char *fr_sparse(void);

/* ---- ISA: chosen once by fr_isa_choose (NULL or "" = the best this CPU runs) ---- */
fr_status fr_isa_choose(const char *at_most);
const char *fr_isa(void);             /* the one in use */
const char *fr_isa_built(int number); /* weakest first, NULL past the end */

/* ---- network ---- */
typedef struct fr_network fr_network;

fr_status fr_network_create(fr_network **network, fr_dtype dtype, const fr_layer *layers,
                            ptrdiff_t n_layers);
void fr_network_destroy(fr_network *network);
double fr_network_flops(const fr_network *network); /* of one row's forward pass */

/* New hyper-parameters for the same kinds, sizes and activations. */
fr_status fr_network_update_layers(fr_network *network, const fr_layer *layers);

/* What the operands of a training step's products are rounded to, in a float32 network of native products:
 * FR_COMPUTE_own, nothing, or bfloat16; sums, weights and the rest of the step stay float32, and so does
 * inference. FR_BAD_ARGUMENT where fr_has_bfloat16 is 0 or the network is not such. */
enum { FR_COMPUTE_own, FR_COMPUTE_bfloat16 };
int fr_has_bfloat16(void);
fr_status fr_network_compute_in(fr_network *network, int compute);

/* Copies one array in or out. slot: the weights, the gradients between
 * the halves of a step (see fr_training), or that slot of the optimizer's state. The moving moments of
 * batch_normalization have none of these but the weights. */
enum { FR_KERNEL, FR_BIAS, FR_MOVING_MEAN, FR_MOVING_VARIANCE, FR_N_ARRAYS }; /* part; gamma, beta */
enum { FR_GRADIENT = -2, FR_WEIGHTS = -1 };
fr_status fr_network_get(const fr_network *network, int slot, ptrdiff_t layer, int part, void *out);
fr_status fr_network_set(fr_network *network, int slot, ptrdiff_t layer, int part, const void *in);

/* How many arrays of state an optimizer has: its own, of which the first begins at initial_accumulator_value,
 * those of a cumulative L1 step, the sum of gradients, and the mean of the weights, which begins at these;
 * all else begins at 0. */
int fr_optimizer_slots(const fr_optimizer *optimizer);
enum { FR_MOST_SLOTS = 7 };

/* The optimizer's state: how many slots there are now, and set their number (all zero). */
int fr_network_slots(const fr_network *network);
fr_status fr_network_set_slots(fr_network *network, int n_slots);

/* Sets weights and slots aside for fr_network_put_back: FR_NOT_FINITE, and what was kept before stays,
 * when a weight is not finite. */
fr_status fr_network_keep(fr_network *network, int n_threads);
/* FR_NOT_FINITE when a weight is not finite. */
fr_status fr_network_finite(fr_network *network, int n_threads);
fr_status fr_network_put_back(fr_network *network);

/* A setting that changes from step to step; the network's layers keep what the last step had. */
typedef struct {
    int setting; /* FR_SETTING_... */
    ptrdiff_t layer; /* not read for the learning rate */
    const double *values; /* one for each step of the call */
} fr_schedule;

/* The outputs of a dense layer or an activation, for a penalty of the caller's own on them. */
typedef struct {
    ptrdiff_t layer;
    void *y;        /* (stop - start, n_out), rows as many times as the layer has them: out, of FR_TO_OUTPUTS, FR_TO_LOSS and evaluation */
    const void *dy; /* as y: in, of FR_OUTPUTS_TO_GRADIENTS, the penalty's gradient divided by the rows */
} fr_watch;

typedef struct {
    fr_data data;
    ptrdiff_t start, stop; /* rows index[start:stop], cut into batches; the last may be short */
    ptrdiff_t batch_size;
    int loss, accuracy;
    fr_loss_settings loss_settings;
    fr_optimizer optimizer;
    int64_t iteration; /* optimizer steps done before this call */
    uint64_t seed;     /* of noise */
    int n_threads;
    int part; /* FR_WHOLE_STEPS, or a part of one */
    void *outputs; /* (stop - start, n_out) or NULL: what the loss saw of each row */
    const void *dy; /* (stop - start, n_out), of FR_OUTPUTS_TO_GRADIENTS; NULL after FR_TO_LOSS */
    const fr_watch *watches;
    ptrdiff_t n_watches;
    const fr_schedule *schedules;
    ptrdiff_t n_schedules;
} fr_training;

/* One step in two calls that differ in nothing else, start to stop being one batch: the first leaves the
 * gradients of data loss and activity penalties to be read and set, the second updates by them and adds
 * to the ledger. The weights get the same bits as in one call.
 *
 * With a loss of the caller's own the first of the two is cut once more: FR_TO_OUTPUTS leaves `outputs`, and
 * FR_OUTPUTS_TO_GRADIENTS goes on from `dy`, the gradient by these. data.y and data.weight are not read, `loss` is one
 * that fuses with nothing, and to the ledger comes all but the data loss. Where only penalties of activities are the
 * caller's own, it is cut there, too: by FR_TO_LOSS, which is FR_TO_OUTPUTS with the loss. */
enum {
    FR_WHOLE_STEPS,
    FR_TO_GRADIENTS,
    FR_FROM_GRADIENTS,
    FR_TO_OUTPUTS,
    FR_TO_LOSS,
    FR_OUTPUTS_TO_GRADIENTS,
    FR_N_PARTS
};

/* Trains; steps_done < the batches asked for goes with FR_NOT_FINITE. */
fr_status fr_network_train(fr_network *network, const fr_training *training, double *ledger,
                           ptrdiff_t *steps_done);
/* Adds to the ledger for rows start..stop; index, optimizer, iteration and seed are not read. In the part FR_TO_OUTPUTS
 * all but the data loss. */
fr_status fr_network_evaluate(fr_network *network, const fr_training *evaluation, double *ledger);
/* The share of a dense layer's weights that are not 0, where inference on n_rows rows leaves the zeros
 * out; 1 where it does not. */
fr_status fr_network_density(fr_network *network, ptrdiff_t layer, ptrdiff_t n_rows, double *density);
/* The share of a layer's outputs that were not 0 in the last step of training, where that took them alone;
 * 1 where it did not. */
fr_status fr_network_active(const fr_network *network, ptrdiff_t layer, double *share);
/* out (n_rows, n_out) = the network's output for x (n_rows, n_in); n_in, here and elsewhere, is that of all rows of
 * the first layer that a flatten makes one of. */
fr_status fr_network_forward(fr_network *network, ptrdiff_t n_rows, const void *x, void *out,
                             int n_threads);
/* The same for data.x, of which y, weight and index are not read. */
fr_status fr_network_forward_data(fr_network *network, const fr_data *data, void *out, int n_threads);

/* ---- the kernels as functions; all arrays contiguous ---- */
fr_status fr_dense_forward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                           const void *x, const void *kernel, const void *bias, int activation,
                           fr_curve curve, void *y, int n_threads);
/* Where this is 1, the backward calls take z as their y. */
int fr_activation_wants_z(int id);
/* dx may be NULL. */
fr_status fr_dense_backward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                            const void *x, const void *kernel, const void *y, const void *dy,
                            int activation, fr_curve curve, void *dx, void *dkernel, void *dbias,
                            int n_threads);
fr_status fr_activation_forward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *z,
                                int activation, fr_curve curve, void *y);
fr_status fr_activation_backward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y,
                                 const void *dy, int activation, fr_curve curve, void *dz);
fr_status fr_penalty(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r, double *value);
fr_status fr_penalty_gradient(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r,
                              void *dw);
/* Of the outputs y (rows, n) of a layer, not divided by the rows; value or dy may be NULL. */
fr_status fr_kl_penalty(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y, fr_kl penalty,
                        double *value, void *dy);
/* The same for groups of a kernel (n_in, n_out); prox makes w the minimum over u of |u - w|^2 / 2 +
 * step (l1 sum |u| + group penalty of u). */
fr_status fr_group_penalty(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, const void *w,
                           const fr_groups *groups, double *value);
fr_status fr_group_penalty_gradient(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, const void *w,
                                    const fr_groups *groups, void *dw);
fr_status fr_group_prox(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, void *w, double step,
                        double l1, const fr_groups *groups);
/* The descent of a quadratic f(w) + sum over rows j of l1_j sum |w_j| + group_j norm(w_j), row by row
 * (coordinate descent: Friedman, Hastie & Tibshirani 2010). w (n_out, n) and g, f's gradient there, are both
 * moved: a step d of row j adds h_j d to g. Ends when no element of the subgradient nearest to 0 is above tol
 * (the largest is in *residual), or after max_sweeps. A row whose h_jj is 0 stays. */
typedef struct {
    ptrdiff_t n, n_out;
    const double *h;          /* (n, n): f's second derivative, the same for each of n_out columns */
    const double *l1, *group; /* (n,) */
} fr_quadratic;
fr_status fr_quadratic_descend(const fr_quadratic *q, double tol, ptrdiff_t max_sweeps, double *w,
                               double *g, double *residual);
/* 1 if the sum of |x| is finite; 0 may also mean that it overflowed. */
int fr_is_finite(fr_dtype dtype, ptrdiff_t n, const void *x);
/* dy NULL: the value alone; value NULL: the gradient alone. The value is sum(weight * loss) / rows. */
fr_status fr_loss(fr_dtype dtype, int loss, fr_loss_settings settings, ptrdiff_t rows, ptrdiff_t n,
                  const void *y_true, const void *y_pred, const void *weight, double *value, void *dy);
/* (x - mean) / sqrt(variance + epsilon) gamma + beta by the moments of rows, about_zero with 0 for the mean, or by
 * given ones of columns; y may be x, gamma and beta (n) may be NULL. */
fr_status fr_normalize_rows(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x, const void *gamma,
                            const void *beta, double epsilon, int about_zero, void *y);
fr_status fr_normalize_columns(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x, const void *mean,
                               const void *variance, const void *gamma, const void *beta, double epsilon,
                               void *y);
/* kind: one of FR_NOISES; amount: its rate, or its standard deviation */
fr_status fr_noise(fr_dtype dtype, int kind, ptrdiff_t rows, ptrdiff_t n, const void *x, double amount,
                   uint64_t seed, int64_t iteration, ptrdiff_t layer, void *y);
/* slots: the optimizer's state for w, fr_optimizer_slots arrays; with l1_step cumulative the last two are
 * its own. */
fr_status fr_update(fr_dtype dtype, const fr_optimizer *optimizer, int64_t iteration, ptrdiff_t n,
                    void *w, const void *dw, void *const *slots, fr_regularizer r);

#endif
