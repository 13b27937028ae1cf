#include "../fastreg.h"

const char *fr_status_text(fr_status status)
{
    switch (status) {
    case FR_OK: return "ok";
    case FR_BAD_ARGUMENT: return "a size, id or pointer that the contract rules out";
    case FR_NO_MEMORY: return "out of memory";
    case FR_TOO_LARGE: return "a size that overflows the engine's or BLAS' integers";
    case FR_NO_BLAS: return "no BLAS was handed to the engine";
    case FR_NOT_FINITE: return "the loss of a step was not finite";
    }
    return "unknown status";
}

#define FR_NAME(name) #name,
#define FR_NAME_FUNCTION(function, table, count)                                                   \
    const char *function(int id)                                                                   \
    {                                                                                              \
        static const char *const names[] = {table(FR_NAME)};                                       \
        return id >= 0 && id < count ? names[id] : NULL;                                           \
    }
FR_NAME_FUNCTION(fr_activation_name, FR_ACTIVATIONS, FR_N_ACTIVATIONS)
FR_NAME_FUNCTION(fr_loss_name, FR_LOSSES, FR_N_LOSSES)
FR_NAME_FUNCTION(fr_optimizer_name, FR_OPTIMIZERS, FR_N_OPTIMIZERS)
FR_NAME_FUNCTION(fr_l1_step_name, FR_L1_STEPS, FR_N_L1_STEPS)
FR_NAME_FUNCTION(fr_accuracy_name, FR_ACCURACIES, FR_N_ACCURACIES)
FR_NAME_FUNCTION(fr_layer_kind_name, FR_LAYER_KINDS, FR_N_LAYER_KINDS)
FR_NAME_FUNCTION(fr_constraint_name, FR_CONSTRAINTS, FR_N_CONSTRAINTS)
FR_NAME_FUNCTION(fr_setting_name, FR_SETTINGS, FR_N_SETTINGS)
