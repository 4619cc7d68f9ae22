/* Errors: one list of codes for the whole program, and an error value that gathers context on its way up.
 *
 * A function that may fail returns an `enum dn_code` (DN_OK is 0) and takes a `struct dn_error *err` as
 * its last parameter where a message helps. `err` may be NULL. The callee fills it with dn_fail(); callers
 * add what they were doing with dn_wrap(): "load catalogue 'x.jsonl': line 7: vector has 3 numbers, not 64".
 *
 * Assertions (DN_ASSERT) are for our own mistakes and stay on in release. Input is never asserted. */
#ifndef DN_BASE_ERROR_H
#define DN_BASE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* X(code, text, gRPC status code): https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
#define DN_CODES(X)                                                                                          \
    X(DN_OK, "ok", 0)                                                                                        \
    X(DN_CANCELLED, "cancelled", 1)                                                                          \
    X(DN_INVALID, "invalid argument", 3)                                                                     \
    X(DN_DEADLINE, "deadline exceeded", 4)                                                                   \
    X(DN_NOT_FOUND, "not found", 5)                                                                          \
    X(DN_EXISTS, "already exists", 6)                                                                        \
    X(DN_DENIED, "permission denied", 7)                                                                     \
    X(DN_EXHAUSTED, "resource exhausted", 8)                                                                 \
    X(DN_PRECONDITION, "failed precondition", 9)                                                             \
    X(DN_ABORTED, "aborted", 10)                                                                             \
    X(DN_RANGE, "out of range", 11)                                                                          \
    X(DN_UNIMPLEMENTED, "not implemented", 12)                                                               \
    X(DN_INTERNAL, "internal error", 13)                                                                     \
    X(DN_UNAVAILABLE, "unavailable", 14)                                                                     \
    X(DN_CORRUPT, "data corrupt", 15)                                                                        \
    X(DN_NOT_LEADER, "not the leader", 14)                                                                   \
    X(DN_IO, "input/output error", 13)                                                                       \
    X(DN_NO_SPACE, "no space left", 8)                                                                       \
    X(DN_NO_MEMORY, "out of memory", 8)

enum dn_code {
#define X(code, text, grpc) code,
    DN_CODES(X)
#undef X
        DN_CODE_COUNT
};

#define DN_ERROR_MESSAGE_MAX 512

struct dn_error {
    enum dn_code code;
    char message[DN_ERROR_MESSAGE_MAX]; /* always NUL-terminated; long messages are cut with "..." */
};

/* The fixed text of a code ("invalid argument"). Never NULL. Any thread. */
const char *dn_code_text(enum dn_code code);

/* The gRPC status number (0..16) that a code is answered with. Any thread. */
int dn_code_grpc(enum dn_code code);

/* Sets *err (if not NULL) to the code and a formatted message; returns the code, so that
 * `return dn_fail(err, DN_INVALID, ...)` reads well. */
enum dn_code dn_fail(struct dn_error *err, enum dn_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "formatted: " before the message that is there; returns err->code (or `code` if err is NULL). */
enum dn_code dn_wrap(struct dn_error *err, enum dn_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__
/* clang-tidy looks at one file at a time and would think that `return dn_fail(...)` may return DN_OK. */
static inline enum dn_code dn_analyzer_result(enum dn_code result, enum dn_code code)
{
    (void)result;
    return code;
}
#define dn_fail(err, code, ...) dn_analyzer_result((dn_fail)(err, code, __VA_ARGS__), code)
#define dn_wrap(err, code, ...) dn_analyzer_result((dn_wrap)(err, code, __VA_ARGS__), code)
#endif

/* Prints file, line and expression to standard error, then aborts. */
_Noreturn void dn_assert_failed(const char *expression, const char *file, int line);

#define DN_ASSERT(expression) ((expression) ? (void)0 : dn_assert_failed(#expression, __FILE__, __LINE__))

#endif
