/* The stream that nodes read beside what clients ask: a file of lines, the same for all nodes, to which one
 * producer appends. Most lines are new events of the users that clients work on; some are no events. One
 * thread, but where it says otherwise. */
#ifndef DN_CHAOS_WORKLOAD_STREAM_H
#define DN_CHAOS_WORKLOAD_STREAM_H

#include "chaos/history.h"
#include "chaos/workload_random.h"
#include "chaos/workload_users.h"

#define WORKLOAD_STREAM "chaos" /* its source's name in the configuration, and its own in histories */

struct workload_stream {
    int fd;
    int64_t end; /* bytes in the file */
    struct chaos_history *history;
    struct workload_users *users;
    struct workload_random random;
    uint64_t last_dud;  /* number of the last line that is no event */
    char partition[32]; /* "chaos/0" */
};

/* Makes the file, empty, before nodes start; it must not exist. */
enum dn_code workload_stream_create(const char *path, struct dn_error *err);
/* What a node's configuration says of it. Returns false when it does not fit. */
bool workload_stream_yaml(const char *path, char *ret_text, size_t size);

/* history and users outlive it. */
enum dn_code workload_stream_open(struct workload_stream *stream, const char *path,
                                  struct chaos_history *history, struct workload_users *users, uint64_t seed,
                                  struct dn_error *err);
void workload_stream_close(struct workload_stream *stream);

/* Appends some events of one user, a line each, or a line that is none, each with one write and each in the
 * history before and after. An error ends the stream: what is in the file is not known any more. */
enum dn_code workload_stream_step(struct workload_stream *stream, struct dn_error *err);
/* Writes into the history where it ends. After the last step. */
void workload_stream_tell_end(const struct workload_stream *stream);

#endif
