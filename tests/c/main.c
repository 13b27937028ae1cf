/* run [suite ...]: all suites, or those named. */
#include "test.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PRINTED = 40 };

static long n_passed, n_failed;
static char label[256];

void test_case(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(label, sizeof label, format, arguments);
    va_end(arguments);
}

bool test_check(bool passed, const char *file, int line, const char *format, ...)
{
    if (passed) {
        n_passed++;
        return true;
    }
    if (n_failed++ < MOST_PRINTED) {
        va_list arguments;
        va_start(arguments, format);
        printf("%s:%d: [%s] ", file, line, label);
        vprintf(format, arguments);
        printf("\n");
        va_end(arguments);
    }
    return false;
}

void test_each_target(void (*body)(fr_dtype dtype))
{
    for (int i = 0; fr_isa_built(i); i++) {
        CHECK(fr_isa_choose(fr_isa_built(i)) == FR_OK, "cannot choose %s", fr_isa_built(i));
        if (strcmp(fr_isa(), fr_isa_built(i)) != 0) continue; /* not on this CPU */
        body(FR_FLOAT32);
        body(FR_FLOAT64);
    }
    fr_isa_choose(NULL);
}

/* ---- random numbers: splitmix64 ---- */

static uint64_t state;

void test_seed(uint64_t seed) { state = seed; }

static uint64_t next(void)
{
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double test_uniform(double low, double high)
{
    return low + (high - low) * ((double)(next() >> 11) * 0x1p-53);
}

ptrdiff_t test_below(ptrdiff_t n) { return (ptrdiff_t)(next() % (uint64_t)n); }

void fill(fr_dtype dtype, void *array, ptrdiff_t n, double low, double high)
{
    for (ptrdiff_t i = 0; i < n; i++) put(dtype, array, i, test_uniform(low, high));
}

/* Sanitizers ask for these: an allocation that is too large must fail as it does without them, and
 * the thread sanitizer must let a child have threads. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
const char *__tsan_default_options(void) { return "allocator_may_return_null=1:die_after_fork=0"; }

/* ---- the run ---- */

static void on_fault(int number)
{
    /* Only what a handler may call; then the fault happens again, and ends the process. */
    static const char text[] = "fault in case: ";
    ssize_t written = write(2, text, sizeof text - 1);
    written += write(2, label, strlen(label));
    written += write(2, "\n", 1);
    (void)written;
    signal(number, SIG_DFL);
}

static const struct {
    const char *name;
    void (*run)(void);
} suites[] = {
    {"math", test_math},     {"kernels", test_kernels}, {"groups", test_groups},
    {"guard", test_guard},   {"network", test_network}, {"threads", test_threads},
};

static double seconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int n_arguments, char **arguments)
{
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    fr_isa_choose(NULL);
    printf("fastreg C tests, best instruction set here: %s\n", fr_isa());
    int n_run = 0;
    for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++) {
        bool wanted = n_arguments == 1;
        for (int a = 1; a < n_arguments; a++) wanted |= strcmp(arguments[a], suites[i].name) == 0;
        if (!wanted) continue;
        double start = seconds();
        long before = n_passed;
        test_case("%s", suites[i].name);
        test_seed(1);
        suites[i].run();
        printf("%-8s %ld checks, %.1f s\n", suites[i].name, n_passed - before, seconds() - start);
        fflush(stdout); /* children of a later fork would print it again */
        n_run++;
    }
    if (n_run == 0) printf("no such suite\n");
    printf("%ld passed, %ld failed\n", n_passed, n_failed);
    return n_run == 0 || n_failed > 0;
}
