/* What the simulator's files share. Private to them. */
#ifndef DN_TESTS_VIRTUAL_INTERNAL_H
#define DN_TESTS_VIRTUAL_INTERNAL_H

#include "tests/virtual/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define POOL_THREADS 4
#define FIBERS_PER_PROCESS (POOL_THREADS + 4)
#define FD_FIRST 1000000 /* descriptors of simulated files; a machine has FD_ROOM of them */
#define FD_ROOM 256
#define FD_SOCKETS 128         /* the upper ones are listening sockets */
#define SIM_PREFIX "/virtual/" /* of simulated paths: /virtual/<machine>/... */
#define SIM_PORT 7000          /* machine m listens at 10.0.0.<m + 1> */

#define SIM_CHECK(condition, ...)                                                                            \
    do {                                                                                                     \
        bool holds_ = (condition);                                                                           \
        if (!holds_) {                                                                                       \
            sim_broken(__FILE__, __LINE__, #condition, __VA_ARGS__);                                         \
        }                                                                                                    \
    } while (0)
/* Says what is wrong with seed and command, and ends the program. */
_Noreturn void sim_broken(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

struct fiber;
struct process;

/* ---- sim.c ---- */
struct process {
    unsigned machine;
    bool alive;
    bool powered;  /* the machine is on, whether or not the process runs */
    bool direct;   /* the machine's disk takes O_DIRECT */
    uint64_t life; /* counts up with every start */
    struct fiber *fibers[FIBERS_PER_PROCESS];
    uint64_t paused_until;
    int64_t wall_offset_ms; /* of the machine's wall clock, from the true one */
    uint64_t boot_ns;       /* of its monotonic clock at true time 0 */
    unsigned crash_after;   /* disk operations left until the aimed crash; 0: none */
    bool crash_due;         /* the operation it waits for is under way: a slow one may outlast the faults */
    bool crash_power;
    struct loop *loop;
    /* the pool */
    struct job {
        void (*run)(void *arg);
        void (*done)(void *arg);
        void *arg;
    } * jobs;
    size_t job_count, job_room;
};
extern struct process processes[SIM_MACHINES_MAX];
extern struct process *current; /* whose code runs; NULL: the test's */
extern unsigned machine_count;

bool fiber_running(void);      /* on a fiber, which may wait */
void fiber_sleep(uint64_t ns); /* the running fiber waits */
struct fiber *fiber_self(void);
void fiber_park(uint64_t until_ns);                   /* waits until then or fiber_wake */
void fiber_wake(struct fiber *fiber, uint64_t at_ns); /* not earlier than its process may run */
struct fiber *fiber_start(struct process *p, void (*entry)(void *arg), void *arg);
/* A job for the pool: run on a worker, then done() by way of loop_post. */
void pool_add(struct process *p, void (*run)(void *arg), void (*done)(void *arg), void *arg);
/* Where an aimed crash may strike: called by each disk operation, before it takes effect. Does not return
 * when it strikes. */
bool crash_strikes(struct process *p);
_Noreturn void crash_now(struct process *p, bool power);

/* ---- sim_calls.c ---- */
void calls_open(void);
void calls_forget(unsigned machine); /* a process's descriptors */

/* ---- sim_memory.c ---- */
void memory_open(void);
void memory_reset(unsigned machine);
void *memory_real(size_t size); /* the test's own, zeroed; ends the program when there is none */
void memory_real_free(void *memory);
void *memory_stack(size_t size);
void *memory_real_grow(void *memory, size_t size);

/* ---- sim_loop.c ---- */
struct loop *loop_create(struct process *p);
void loop_drop(struct process *p); /* at a crash */
/* done(arg) is called in the process's next turn, where it polls. */
void loop_post(struct process *p, void (*done)(void *arg), void *arg);
void loop_unpost(struct process *p, const void *arg);
bool loop_handle_closing(const void *handle);
void handle_add(uv_loop_t *loop, uv_handle_t *handle, uv_handle_type type);
void handle_active(uv_handle_t *handle, bool active);
bool handle_is_active(const uv_handle_t *handle);
void loop_request(uv_loop_t *loop, int by);
struct process *loop_process(const uv_loop_t *loop);

/* ---- sim_tcp.c: handles on the network ---- */
void tcp_close(uv_handle_t *handle);  /* uv_close was called */
void tcp_finish(uv_handle_t *handle); /* before its close callback */
/* Called by sim_net.c, in the simulator: something changed. */
void tcp_connected(uv_tcp_t *handle, int status);
void tcp_readable(uv_tcp_t *handle);
void tcp_writable(uv_tcp_t *handle);

/* ---- sim_net.c ---- */

/* A listener, or one end of a connection and what it sent that has not arrived. Lives until the life ends, so
 * that events may point to it. */
struct socket {
    struct socket *next; /* all of them */
    unsigned machine, to;
    enum { SOCKET_FRESH, SOCKET_LISTENING, SOCKET_CONNECTING, SOCKET_OPEN, SOCKET_FAILED } state;
    bool held;            /* a process has it */
    struct socket *other; /* of a connection */
    uv_tcp_t *handle;     /* NULL: waits to be accepted, or was closed */
    /* arrived and not read */
    uint8_t *bytes;
    size_t at, length, room;
    bool fin;
    int error; /* SOCKET_FAILED: why */
    /* sent and not arrived */
    struct packet *first, *last;
    size_t queued, window;
    uint64_t last_due, unacked_since; /* 0: all is acknowledged */
    bool ack_lost;                    /* what arrived could not be acknowledged: the way back is cut */
    struct socket *accept_first, *accept_next; /* a listener's queue */
    /* sim_tcp.c's */
    bool reading, read_posted, write_posted;
    uv_write_t *write;
    const uint8_t *write_bytes;
    size_t write_left;
    int write_status, connect_status;
    struct socket *accepted; /* a listener's: told of, not yet taken */
};

void net_open(void);
void net_close(void);
void net_process_ended(unsigned machine, bool power);
void net_machine_started(unsigned machine);
struct socket *net_socket(struct process *p, uv_tcp_t *handle);
void net_listen(struct socket *s);
void net_connect(struct socket *s, unsigned to);
/* How much was taken, or a negative libuv error. */
ssize_t net_send(struct socket *s, const uint8_t *bytes, size_t length);
/* Bytes to read: > 0, 0: none now, negative: UV_EOF or an error, once all bytes were read. */
ssize_t net_receive(struct socket *s, uint8_t *bytes, size_t length);
bool net_readable(const struct socket *s);
struct socket *net_accept(struct socket *listener); /* NULL: nobody waits */
void net_shut(struct socket *s);                    /* its process lets go of it */

/* ---- sim_disk.c ---- */
#define SECTOR 512

struct inode {
    struct inode *next; /* all of a disk's */
    bool directory;
    uint8_t *bytes, *durable; /* `room` of each: as processes see it; as it is after a power loss */
    uint8_t *dirty;           /* one for each sector: written, and not flushed (DIRTY, FLUSHING) */
    size_t size, durable_size, room;
    struct names *names; /* of a directory */
};

void vdisk_format(unsigned machine);
void vdisk_drop(unsigned machine);
void vdisk_crash(unsigned machine, bool power);
bool vdisk_is_full(unsigned machine);
/* What calls do; 0 or a count, or a negative errno. They wait, and a crash may strike in them. */
int vdisk_lookup(unsigned machine, const char *path, struct inode **ret);
int vdisk_create(unsigned machine, const char *path, bool directory, struct inode **ret);
int vdisk_unlink(unsigned machine, const char *path);
int vdisk_rename(unsigned machine, const char *from, const char *to);
ssize_t vdisk_read_at(unsigned machine, const struct inode *inode, uint64_t at, void *bytes, size_t length);
ssize_t vdisk_write_at(unsigned machine, struct inode *inode, uint64_t at, const void *bytes, size_t length);
int vdisk_resize(unsigned machine, struct inode *inode, uint64_t size, bool grow_only);
int vdisk_flush(unsigned machine, struct inode *inode, bool direct);
/* The n-th name of a directory; NULL: there are fewer. */
const char *vdisk_name_at(const struct inode *directory, size_t n);

#endif
