#include "chaos/run_machine.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FLUSH_EVERY_NS 200000000
#define NS_OF_MS 1000000u

static void *flush_always(void *data)
{
    struct run_machine *machine = data;
    struct timespec rest = {.tv_nsec = FLUSH_EVERY_NS};
    while (!atomic_load(&machine->stop)) {
        uint64_t now = dn_monotonic_ns();
        atomic_store(&machine->began_ns, now);
        if (pwrite(machine->fd, &now, sizeof now, 0) == (ssize_t)sizeof now)
            (void)fdatasync(machine->fd); /* what it says does not matter here, only when */
        atomic_store(&machine->began_ns, 0);
        nanosleep(&rest, NULL);
    }
    return NULL;
}

enum dn_code run_machine_begin(struct run_machine *machine, const char *folder, struct dn_error *err)
{
    snprintf(machine->path, sizeof machine->path, "%s/flushed", folder);
    machine->fd = open(machine->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (machine->fd < 0)
        return dn_fail(err, DN_IO, "make '%s': %s", machine->path, strerror(errno));
    int rv = pthread_create(&machine->thread, NULL, flush_always, machine);
    if (rv != 0) {
        close(machine->fd);
        return dn_fail(err, DN_IO, "a thread that watches the machine's disk: %s", strerror(rv));
    }
    machine->started = true;
    return DN_OK;
}

static void note(struct chaos_history *history, enum chaos_type type, const char *what, const char *text)
{
    struct chaos_op op = {.type = type,
                          .f = CHAOS_FAULT,
                          .process = CHAOS_NEMESIS,
                          .name = CHAOS_SLOW_MACHINE,
                          .what = what,
                          .error = text};
    chaos_history_append(history, &op);
}

static void stall_ends(struct run_machine *machine, struct chaos_history *history)
{
    char text[80];
    uint64_t ms = (dn_monotonic_ns() - machine->stalled_since_ns) / NS_OF_MS;
    snprintf(text, sizeof text, "a flush of the machine's own disk took %" PRIu64 " ms", ms);
    note(history, CHAOS_INVOKE, "end", NULL);
    note(history, CHAOS_INFO, "end", text);
    machine->stalled = false;
    machine->total_ms += ms;
    machine->longest_ms = ms > machine->longest_ms ? ms : machine->longest_ms;
}

void run_machine_look(struct run_machine *machine, struct chaos_history *history)
{
    uint64_t began_ns = atomic_load(&machine->began_ns);
    if (machine->stalled && began_ns != machine->stalled_since_ns)
        stall_ends(machine, history);
    if (!machine->stalled && began_ns != 0 &&
        dn_monotonic_ns() > began_ns + (uint64_t)RUN_MACHINE_STALL_MS * NS_OF_MS) {
        note(history, CHAOS_INVOKE, "begin", NULL);
        note(history, CHAOS_INFO, "begin", "the machine's own disk does not flush");
        machine->stalled = true;
        machine->stalled_since_ns = began_ns;
        machine->stalls++;
    }
}

void run_machine_end(struct run_machine *machine, struct chaos_history *history)
{
    if (!machine->started)
        return;
    atomic_store(&machine->stop, true);
    pthread_join(machine->thread, NULL);
    if (machine->stalled)
        stall_ends(machine, history);
    close(machine->fd);
    (void)unlink(machine->path);
    machine->started = false;
}
