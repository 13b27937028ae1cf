/* What every target includes before its instruction set is switched on. */
#ifndef FR_TARGET_H
#define FR_TARGET_H

#include "../base/philox.h"
#include "../base/platform.h"
#include "../kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#endif
