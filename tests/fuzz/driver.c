/* Runs a fuzz target where there is no fuzzer: every seed, then seeded mutations of them, counted and not
 * timed. With DN_FUZZ_ENGINE (libFuzzer, afl++) the engine has its own main, and this gives it the options
 * below.
 *
 *   fuzz_X                    seeds, then DUNLIN_FUZZ_RUNS mutations drawn from DUNLIN_SEED
 *   fuzz_X --make-seeds DIR   writes the seeds as files
 *   fuzz_X --hex FILE         runs one input kept as hexadecimal text
 *   fuzz_X FILE...            runs inputs kept as they are
 *
 * An input that ends the process, or does not return, is left as fuzz_X-SEED-RUN.hex in the working folder.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEEDS_MAX 64u
#define HANG_S 120u /* far beyond any input, also under a sanitizer on a busy machine */
#define EDITS_MAX 6u

int LLVMFuzzerInitialize(int *argc, char ***argv);

static void die(const char *what, const char *name)
{
    fprintf(stderr, "%s '%s': %s\n", what, name, strerror(errno));
    exit(2);
}

static void run_copy(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length > 0 ? length : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, bytes, length);
    (void)LLVMFuzzerTestOneInput(copy, length);
    free(copy);
}

static size_t make_seed(unsigned n, uint8_t *out)
{
    size_t length = n < SEEDS_MAX ? dn_fuzz_seed(n, out, DN_FUZZ_INPUT_MAX) : 0;
    if (length > DN_FUZZ_INPUT_MAX) {
        abort();
    }
    return length;
}

static void make_seeds(const char *folder)
{
    static uint8_t bytes[DN_FUZZ_INPUT_MAX];
    char path[4096];
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        die("mkdir", folder);
    }
    for (unsigned n = 0;; n++) {
        size_t length = make_seed(n, bytes);
        if (length == 0) {
            return;
        }
        snprintf(path, sizeof path, "%s/seed-%02u", folder, n);
        FILE *file = fopen(path, "wb");
        if (file == NULL || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) {
            die("write", path);
        }
    }
}

static void run_file(const char *path, bool hex)
{
    static uint8_t bytes[16u << 20];
    size_t length = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        die("open", path);
    }
    if (hex) {
        unsigned value;
        while (length < sizeof bytes && fscanf(file, "%2x", &value) == 1) {
            bytes[length++] = (uint8_t)value;
        }
    } else {
        length = fread(bytes, 1, sizeof bytes, file);
    }
    fclose(file);
    run_copy(bytes, length);
    printf("%s: %zu bytes, returned\n", path, length);
}

/* True when the arguments asked for something that is done now. */
static bool special_mode(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--make-seeds") == 0) {
        make_seeds(argv[2]);
        return true;
    }
    if (argc == 3 && strcmp(argv[1], "--hex") == 0) {
        run_file(argv[2], true);
        return true;
    }
    return false;
}

#ifdef DN_FUZZ_ENGINE

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (special_mode(*argc, *argv)) {
        exit(0);
    }
    return 0;
}

#else

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
static uint64_t random_state;

static uint64_t next_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(size_t bound)
{
    return bound == 0 ? 0 : (size_t)(next_random() % bound);
}

/* What runs now; read by the handlers. */
static uint8_t input[DN_FUZZ_INPUT_MAX];
static volatile size_t input_length;
static volatile unsigned long run_number;
static unsigned long long seed;
static const char *program;

static void put_text(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) < 0) {
        _exit(1);
    }
}

/* Async-signal-safe, but for snprintf, which the C library keeps so for integers and strings. */
static void save_input(void)
{
    static const char digits[] = "0123456789abcdef";
    static char hex[2 * DN_FUZZ_INPUT_MAX + 1];
    static volatile sig_atomic_t saved;
    char path[256], line[512];
    if (saved) {
        return;
    }
    saved = 1;
    for (size_t i = 0; i < input_length; i++) {
        hex[2 * i] = digits[input[i] >> 4];
        hex[2 * i + 1] = digits[input[i] & 15];
    }
    hex[2 * input_length] = '\n';
    snprintf(path, sizeof path, "%s-%llu-%lu.hex", program, seed, run_number);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ssize_t wrote = fd < 0 ? -1 : write(fd, hex, 2 * input_length + 1);
    snprintf(line, sizeof line,
             "\nFAILED: %s: seed %llu, run %lu, %zu bytes%s%s; repeat with: %s --hex FILE\n", program, seed,
             run_number, input_length, wrote < 0 ? ", which could not be saved as " : ", saved as ", path,
             program);
    put_text(STDERR_FILENO, line);
    if (input_length <= 256) {
        put_text(STDERR_FILENO, hex);
    }
}

static void on_signal(int number)
{
    if (number == SIGALRM) {
        put_text(STDERR_FILENO, "\nthis input does not return\n");
    }
    save_input();
    signal(number == SIGALRM ? SIGABRT : number, SIG_DFL);
    raise(number == SIGALRM ? SIGABRT : number);
}

/* There with a sanitizer only: its reports end the process without a signal. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

static void catch_the_end(void)
{
    static const int always[] = {SIGABRT, SIGALRM}, others[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) {
        sigaction(always[i], &action, NULL);
    }
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(save_input);
        return; /* it prints more about these than we could */
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        sigaction(others[i], &action, NULL);
    }
}

/* ---- mutations -------------------------------------------------------------------------------------------
 */

static const uint64_t interesting[] = {
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xffffffffffffffff,
};

static void overwrite(size_t at, uint64_t value)
{
    static const size_t widths[] = {1, 2, 4, 8};
    size_t width = widths[below(4)];
    for (size_t i = 0; i < width && at + i < input_length; i++) {
        input[at + i] = (uint8_t)(value >> (8 * i));
    }
}

static void insert(size_t at, const uint8_t *bytes, size_t length)
{
    if (input_length + length > DN_FUZZ_INPUT_MAX) {
        return;
    }
    memmove(input + at + length, input + at, input_length - at);
    memcpy(input + at, bytes, length);
    input_length += length;
}

static void edit(uint8_t *const seeds[], const size_t lengths[], size_t count)
{
    size_t at = below(input_length), span = 1 + below(below(4) == 0 ? 64 : 8);
    uint8_t piece[64];
    switch (below(9)) {
    case 0:
        if (input_length > 0) {
            input[at] ^= (uint8_t)(1u << below(8));
        }
        break;
    case 1:
        overwrite(at, next_random());
        break;
    case 2:
        overwrite(at, interesting[below(sizeof interesting / sizeof *interesting)]);
        break;
    case 3: /* a little more or less */
        overwrite(at, (at < input_length ? input[at] : 0u) + below(9) - 4);
        break;
    case 4:
        input_length = at;
        break;
    case 5:
        span = span < input_length - at ? span : input_length - at;
        memmove(input + at, input + at + span, input_length - at - span);
        input_length -= span;
        break;
    case 6:
        for (size_t i = 0; i < span; i++) {
            piece[i] = (uint8_t)next_random();
        }
        insert(at, piece, span);
        break;
    case 7: /* repeats a piece of itself */
        span = span < input_length - at ? span : input_length - at;
        memcpy(piece, input + at, span);
        insert(below(input_length + 1), piece, span);
        break;
    default: /* goes on as another seed does */
        if (count > 0) {
            size_t other = below(count), from = below(lengths[other]);
            size_t length = lengths[other] - from;
            length = length < DN_FUZZ_INPUT_MAX - at ? length : DN_FUZZ_INPUT_MAX - at;
            memcpy(input + at, seeds[other] + from, length);
            input_length = at + length;
        }
        break;
    }
}

static unsigned long long number_of(const char *name, unsigned long long otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    static uint8_t *seeds[SEEDS_MAX];
    static size_t lengths[SEEDS_MAX];
    unsigned count = 0;
    program = strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0];
    if (special_mode(argc, argv)) {
        return 0;
    }
    if (argc > 1 && argv[1][0] == '-') {
        fprintf(stderr, "Usage: %s [--make-seeds DIR | --hex FILE | FILE...]\n", program);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        run_file(argv[i], false);
    }
    if (argc > 1) {
        return 0;
    }
    uint64_t drawn = 0;
    if (getrandom(&drawn, sizeof drawn, 0) < 0) {
        drawn = 1;
    }
    seed = number_of("DUNLIN_SEED", drawn % 1000000000);
    random_state = seed;
    unsigned long runs = (unsigned long)number_of("DUNLIN_FUZZ_RUNS", dn_fuzz_runs);
    printf("seed: %llu (repeat with DUNLIN_SEED=%llu), %lu mutations\n", seed, seed, runs);
    fflush(stdout);
    catch_the_end();
    run_copy(input, 0);
    for (;; count++) {
        input_length = make_seed(count, input);
        if (input_length == 0) {
            break;
        }
        seeds[count] = malloc(input_length);
        if (seeds[count] == NULL) {
            abort();
        }
        memcpy(seeds[count], input, input_length);
        lengths[count] = input_length;
        alarm(HANG_S);
        run_copy(input, input_length);
    }
    for (run_number = 1; run_number <= runs; run_number++) {
        size_t start = below(count);
        input_length = count > 0 ? lengths[start] : 0;
        if (input_length > 0) {
            memcpy(input, seeds[start], input_length);
        }
        for (size_t n = 1 + below(EDITS_MAX); n > 0; n--) {
            edit(seeds, lengths, count);
        }
        alarm(HANG_S);
        run_copy(input, input_length);
    }
    alarm(0);
    for (unsigned i = 0; i < count; i++) {
        free(seeds[i]);
    }
    printf("%u seeds and %lu mutations: passed\n", count, runs);
    return count > 0 ? 0 : 1;
}

#endif
