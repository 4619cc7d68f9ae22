/* The simulator: machines with a clock, a disk and a network, and one process on each, all in this process
 * and under one seed. The server's rooms are linked unmodified: their libuv calls end in sim_loop.c and
 * sim_tcp.c, their system calls and their memory, by the linker's --wrap, in sim_calls.c and sim_memory.c.
 *
 * A process is a set of fibers: the thread that starts it, the loop's, and those of its pool. Only one fiber
 * runs at a time, until it waits; a call that waits for the disk waits in virtual time, and others go on. So
 * a run is a function of its seed. A crash drops the fibers where they stand, and the process's memory.
 *
 * What is not simulated: two threads inside one function at once (the thread sanitizer looks for that), and
 * time that computing takes (a turn of a loop costs some microseconds, whatever it does). */
#ifndef DN_TESTS_VIRTUAL_SIM_H
#define DN_TESTS_VIRTUAL_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MACHINES_MAX 8
#define SIM_US UINT64_C(1000)
#define SIM_MS UINT64_C(1000000)
#define SIM_S UINT64_C(1000000000)

/* ---- what happened, counted over all lives: proof that each kind of fault occurs ---------------------- */

#define SIM_COUNTS(X)                                                                                        \
    X(lives, "lives")                                                                                        \
    X(events, "steps of the simulator")                                                                      \
    X(turns, "loop turns")                                                                                   \
    X(starts, "processes started")                                                                           \
    X(kills, "processes killed")                                                                             \
    X(power_losses, "machines that lost power")                                                              \
    X(aimed_crashes, "of these, in the middle of a disk operation")                                          \
    X(sectors_lost, "unflushed sectors lost")                                                                \
    X(sectors_kept, "unflushed sectors kept")                                                                \
    X(writes_torn, "files torn: some sectors lost, some kept")                                               \
    X(names_lost, "unflushed names lost")                                                                    \
    X(disk_errors, "disk operations that failed")                                                            \
    X(disk_full, "disk operations without space")                                                            \
    X(flushes_lied, "failed flushes that forgot what they held")                                             \
    X(sectors_evicted, "sectors of these that the next process read as they were before")                    \
    X(slow_flushes, "flushes slower than 20 ms")                                                             \
    X(pauses, "processes paused")                                                                            \
    X(clock_jumps, "clock jumps")                                                                            \
    X(cuts, "links cut")                                                                                     \
    X(connections, "connections made")                                                                       \
    X(refused, "connections refused")                                                                        \
    X(resets, "connections reset")                                                                           \
    X(timeouts, "connections timed out")                                                                     \
    X(half_delivered, "writes half delivered, then reset")                                                   \
    X(corrupted, "bytes corrupted on the wire")                                                              \
    X(short_reads, "reads in pieces")                                                                        \
    X(short_writes, "writes in pieces")

struct sim_counts {
#define X(name, text) uint64_t name;
    SIM_COUNTS(X)
#undef X
};
extern struct sim_counts sim_counts;

/* ---- a life ------------------------------------------------------------------------------------------ */

/* Begins a life: machines 0..machines-1, all off. */
void sim_open(uint64_t seed, unsigned machines);
/* Ends it: all processes and disks are gone. */
void sim_close(void);

uint64_t sim_now(void);                           /* ns since the life began */
uint64_t sim_random(uint64_t bound);              /* below bound; the simulator's and the test's */
bool sim_chance(unsigned one_in);                 /* true once in so many */
uint64_t sim_between(uint64_t from, uint64_t to); /* both included */
/* Calls call(arg, tag) at that time. */
void sim_at(uint64_t time_ns, void (*call)(void *arg, uint64_t tag), void *arg, uint64_t tag);
/* Runs what is due until that time. */
void sim_run_until(uint64_t time_ns);

/* ---- the trace: every step goes into its hash; with sim_tracing it is printed too ---------------------- */

extern bool sim_tracing;
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_note(uint64_t a, uint64_t b); /* into the hash only */
uint64_t sim_trace_hash(void);

/* ---- processes --------------------------------------------------------------------------------------- */

/* Starts a process on a machine (switching it on): its first thread runs entry(arg). */
void sim_start(unsigned machine, void (*entry)(void *arg), void *arg);
/* Another thread in it, as a signal handler or an operator would be. */
void sim_thread(unsigned machine, void (*entry)(void *arg), void *arg);
bool sim_alive(unsigned machine);
/* The process ends in this instant: its connections are closed by the kernel, its writes stay. */
void sim_kill(unsigned machine);
/* The machine ends: unflushed writes are lost, kept or torn. */
void sim_power_loss(unsigned machine);
/* One of the two, in the middle of the process's next disk operation but `skip`. */
void sim_crash_in_disk(unsigned machine, unsigned skip, bool power);
/* Called in the simulator after a process ended by a crash that was aimed, or by sim_exit. */
extern void (*sim_on_death)(unsigned machine);
/* The running process ends itself. */
_Noreturn void sim_exit(void);
/* Nothing of the process runs until then (SIGSTOP). */
void sim_pause(unsigned machine, uint64_t until_ns);
void sim_unpause(unsigned machine);
/* Between the two, calls into the process's code use its memory. They must not wait. */
void sim_enter(unsigned machine);
void sim_leave(void);
/* Between the two, code called by a process uses the test's memory. They must not
 * wait either. */
struct process;
struct process *sim_outside_begin(void);
void sim_outside_end(struct process *inside);

/* ---- clocks ------------------------------------------------------------------------------------------ */

#define SIM_WALL_MS INT64_C(1700000000000) /* at the beginning of a life */
int64_t sim_wall_ms(unsigned machine);
void sim_clock_jump(unsigned machine, int64_t by_ms);

/* ---- network: from one machine to another, one way -------------------------------------------------- */

void sim_net_cut(unsigned from, unsigned to, bool cut);
bool sim_net_is_cut(unsigned from, unsigned to);
void sim_net_latency(unsigned from, unsigned to, uint64_t min_ns, uint64_t max_ns);
void sim_net_corrupt(unsigned from, unsigned to, unsigned one_in); /* packets; 0: none */
/* Every connection between the two is reset; what travels is delivered half. */
void sim_net_reset(unsigned a, unsigned b);

/* ---- disk --------------------------------------------------------------------------------------------- */

struct sim_disk_faults {
    unsigned read_one_in, write_one_in, flush_one_in; /* fail with EIO; 0: never */
    bool full;                                        /* what needs new space fails with ENOSPC */
    uint64_t flush_min_ns, flush_max_ns;
};
void sim_disk_faults(unsigned machine, const struct sim_disk_faults *faults);
void sim_disk_wipe(unsigned machine); /* an empty disk in place of the old one; the process is not alive */

#endif
