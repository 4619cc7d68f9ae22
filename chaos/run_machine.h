/* The machine under the cluster: a thread that writes and flushes a small file beside the nodes' disks all
 * the time. When that takes long, the nodes' flushes do too, whatever the server does: a stall goes into the
 * history as a fault of its own ("slow-machine"), so that nobody looks for its effects in the server, and
 * "recovery" gives so much more time. */
#ifndef DN_CHAOS_RUN_MACHINE_H
#define DN_CHAOS_RUN_MACHINE_H

#include "chaos/history.h"

#include <pthread.h>
#include <stdatomic.h>

#define RUN_MACHINE_STALL_MS (CHAOS_STALL_NS / 1000000) /* a flush that takes longer is a stall */

struct run_machine {
    char path[600];
    int fd;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    atomic_ullong began_ns; /* of the flush that is under way; 0: none is */
    /* of the thread that calls run_machine_look */
    bool stalled;
    uint64_t stalled_since_ns;
    uint64_t stalls, longest_ms, total_ms;
};

enum dn_code run_machine_begin(struct run_machine *machine, const char *folder, struct dn_error *err);
/* Often, by one thread: writes into the history what is new. */
void run_machine_look(struct run_machine *machine, struct chaos_history *history);
/* Ends a stall that is on, in the history too; the file is removed. Harmless when it was not begun. */
void run_machine_end(struct run_machine *machine, struct chaos_history *history);

#endif
