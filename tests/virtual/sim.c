/* The simulator's core: the order of events, randomness, fibers, processes and their pool, clocks, the trace.
 *
 * Invariants
 * 1. Events run in the order of their time, and of being asked for where that is equal.
 * 2. Nothing takes place but by an event; the clock moves only between events.
 * 3. `current` is the process whose code runs, and NULL in the simulator and the test.
 * 4. A fiber that waits has at most one wake-up that counts (wake_tag says which). */
#include "tests/virtual/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <ucontext.h>

#define FIBERS_MAX (SIM_MACHINES_MAX * FIBERS_PER_PROCESS)
#define STACK_BYTES ((size_t)512 << 10)
#define JOB_START_MAX_NS (200 * SIM_US)

struct sim_counts sim_counts;
bool sim_tracing;
void (*sim_on_death)(unsigned machine);
struct process processes[SIM_MACHINES_MAX];
struct process *current;
unsigned machine_count;

static uint64_t now_ns, random_state, life_seed, trace_hash, last_sequence;

/* ---- randomness and the trace ------------------------------------------------------------------------ */

uint64_t sim_now(void)
{
    return now_ns;
}

uint64_t sim_random(uint64_t bound)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % bound;
}

bool sim_chance(unsigned one_in)
{
    return one_in > 0 && sim_random(one_in) == 0;
}

uint64_t sim_between(uint64_t from, uint64_t to)
{
    return from + sim_random(to - from + 1);
}

void sim_note(uint64_t a, uint64_t b)
{
    trace_hash = (trace_hash ^ a ^ now_ns) * 0x9e3779b97f4a7c15u;
    trace_hash = (trace_hash ^ trace_hash >> 29 ^ b) * 0xbf58476d1ce4e5b9u;
}

uint64_t sim_trace_hash(void)
{
    return trace_hash;
}

void sim_trace(const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (int i = 0; i < length && i < (int)sizeof line - 1; i++) {
        trace_hash = (trace_hash ^ (uint8_t)line[i]) * 0x100000001b3u;
    }
    if (sim_tracing) {
        fprintf(stderr, "%10.6f %s\n", (double)now_ns / 1e9, line);
    }
}

void sim_broken(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;
    current = NULL;
    fprintf(stderr, "%s:%d: %s: ", file, line, condition);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort(); /* the runner's handler prints the seed */
}

/* ---- events ------------------------------------------------------------------------------------------- */

struct event {
    uint64_t time_ns, sequence, tag;
    void (*call)(void *arg, uint64_t tag);
    void *arg;
};
static struct event *heap;
static size_t heap_count, heap_room;

static bool before(const struct event *a, const struct event *b)
{
    return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->sequence < b->sequence;
}

void sim_at(uint64_t time_ns, void (*call)(void *arg, uint64_t tag), void *arg, uint64_t tag)
{
    if (heap_count == heap_room) {
        heap_room = heap_room == 0 ? 1024 : heap_room * 2;
        heap = memory_real_grow(heap, heap_room * sizeof *heap);
    }
    struct event event = {time_ns < now_ns ? now_ns : time_ns, ++last_sequence, tag, call, arg};
    size_t at = heap_count++;
    while (at > 0 && before(&event, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = event;
}

static struct event heap_pop(void)
{
    struct event first = heap[0], last = heap[--heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap_count) {
            break;
        }
        if (child + 1 < heap_count && before(&heap[child + 1], &heap[child])) {
            child++;
        }
        if (before(&last, &heap[child])) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

void sim_run_until(uint64_t time_ns)
{
    while (heap_count > 0 && heap[0].time_ns <= time_ns) {
        struct event event = heap_pop();
        now_ns = event.time_ns;
        sim_counts.events++;
        event.call(event.arg, event.tag);
    }
    now_ns = time_ns > now_ns ? time_ns : now_ns;
}

/* ---- fibers ------------------------------------------------------------------------------------------- */

struct fiber {
    jmp_buf at; /* where it waits */
    uint8_t *stack;
    bool used;  /* has an owner */
    bool begun; /* `at` is set */
    struct process *process;
    void (*entry)(void *arg);
    void *arg;
    bool parked;
    bool put_off;               /* its time has come, but the process is paused */
    uint64_t wake_tag, wake_ns; /* the wake-up that counts, while parked */
};
static struct fiber fibers[FIBERS_MAX];
static struct fiber *running;
static jmp_buf scheduler;

enum { TO_SCHEDULER = 1, TO_DEATH };

bool fiber_running(void)
{
    return running != NULL;
}

struct fiber *fiber_self(void)
{
    return running;
}

static void to_scheduler(int why)
{
    if (_setjmp(running->at) == 0) {
        _longjmp(scheduler, why);
    }
}

static void fiber_main(void)
{
    running->entry(running->arg);
    struct process *p = running->process;
    for (size_t i = 0; i < FIBERS_PER_PROCESS; i++) {
        if (p->fibers[i] == running) {
            p->fibers[i] = NULL;
        }
    }
    running->used = false;
    running->begun = false;
    _longjmp(scheduler, TO_SCHEDULER);
}

/* The first switch onto a new stack; afterwards _setjmp and _longjmp do it, which make no system call. */
static void fiber_begin(struct fiber *fiber)
{
    static ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber->stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = NULL;
    makecontext(&context, fiber_main, 0);
    fiber->begun = true;
    setcontext(&context);
}

static void process_died(struct process *p);

static void resume(struct fiber *fiber)
{
    static struct process *dead; /* not on the stack: it is set between _setjmp and _longjmp */
    fiber->parked = fiber->put_off = false;
    running = fiber;
    current = fiber->process;
    int why = _setjmp(scheduler);
    if (why == 0) {
        if (fiber->begun) {
            _longjmp(fiber->at, 1);
        }
        fiber_begin(fiber);
    }
    dead = why == TO_DEATH ? running->process : NULL;
    running = NULL;
    current = NULL;
    if (dead != NULL) {
        process_died(dead);
    }
}

static void wake_event(void *arg, uint64_t tag)
{
    struct fiber *fiber = arg;
    if (!fiber->used || !fiber->parked || fiber->wake_tag != tag) {
        return;
    }
    if (fiber->process->paused_until > now_ns) {
        fiber->wake_ns = fiber->process->paused_until;
        fiber->put_off = true;
        sim_at(fiber->wake_ns, wake_event, fiber, tag);
        return;
    }
    resume(fiber);
}

static void wake_at(struct fiber *fiber, uint64_t at_ns)
{
    static uint64_t tags;
    fiber->wake_tag = ++tags;
    fiber->wake_ns = at_ns;
    if (at_ns != UINT64_MAX) {
        sim_at(at_ns, wake_event, fiber, fiber->wake_tag);
    }
}

void fiber_wake(struct fiber *fiber, uint64_t at_ns)
{
    if (fiber->used && fiber->parked && at_ns < fiber->wake_ns) {
        wake_at(fiber, at_ns);
    }
}

void fiber_park(uint64_t until_ns)
{
    struct fiber *self = running;
    SIM_CHECK(self != NULL && current == self->process, "the test cannot wait");
    self->parked = true;
    wake_at(self, until_ns);
    to_scheduler(TO_SCHEDULER);
}

void fiber_sleep(uint64_t ns)
{
    uint64_t until = now_ns + ns;
    while (now_ns < until) {
        fiber_park(until);
    }
}

struct fiber *fiber_start(struct process *p, void (*entry)(void *arg), void *arg)
{
    struct fiber *fiber = NULL;
    size_t place = 0;
    for (size_t i = 0; i < FIBERS_MAX && fiber == NULL; i++) {
        fiber = fibers[i].used ? NULL : &fibers[i];
    }
    while (place < FIBERS_PER_PROCESS && p->fibers[place] != NULL) {
        place++;
    }
    SIM_CHECK(fiber != NULL && place < FIBERS_PER_PROCESS, "machine %u: too many threads", p->machine);
    if (fiber->stack == NULL) {
        fiber->stack = memory_stack(STACK_BYTES);
    }
    fiber->used = true;
    fiber->begun = false;
    fiber->process = p;
    fiber->entry = entry;
    fiber->arg = arg;
    fiber->parked = true;
    fiber->put_off = false;
    p->fibers[place] = fiber;
    wake_at(fiber, now_ns + sim_random(20 * SIM_US));
    return fiber;
}

/* ---- the pool ----------------------------------------------------------------------------------------- */

static void worker(void *arg)
{
    struct process *p = arg;
    while (p->job_count > 0) {
        struct job job = p->jobs[0];
        memmove(p->jobs, p->jobs + 1, --p->job_count * sizeof *p->jobs);
        fiber_sleep(sim_random(JOB_START_MAX_NS));
        job.run(job.arg);
        loop_post(p, job.done, job.arg);
    }
}

void pool_add(struct process *p, void (*run)(void *arg), void (*done)(void *arg), void *arg)
{
    unsigned workers = 0;
    if (p->job_count == p->job_room) {
        p->job_room = p->job_room == 0 ? 16 : p->job_room * 2;
        p->jobs = memory_real_grow(p->jobs, p->job_room * sizeof *p->jobs);
    }
    p->jobs[p->job_count++] = (struct job){run, done, arg};
    for (size_t i = 0; i < FIBERS_PER_PROCESS; i++) {
        workers += p->fibers[i] != NULL && p->fibers[i]->entry == worker;
    }
    if (workers < POOL_THREADS) {
        fiber_start(p, worker, p);
    }
}

/* ---- processes ---------------------------------------------------------------------------------------- */

void sim_start(unsigned machine, void (*entry)(void *arg), void *arg)
{
    struct process *p = &processes[machine];
    SIM_CHECK(!p->alive, "machine %u runs already", machine);
    p->alive = true;
    p->life++;
    if (!p->powered) {
        p->powered = true;
        net_machine_started(machine);
    }
    p->paused_until = 0;
    p->crash_after = 0;
    p->crash_due = false;
    p->job_count = 0;
    sim_counts.starts++;
    sim_trace("machine %u: process %llu starts", machine, (unsigned long long)p->life);
    fiber_start(p, entry, arg);
}

void sim_thread(unsigned machine, void (*entry)(void *arg), void *arg)
{
    SIM_CHECK(processes[machine].alive, "machine %u is off", machine);
    fiber_start(&processes[machine], entry, arg);
}

bool sim_alive(unsigned machine)
{
    return processes[machine].alive;
}

static void end_process(struct process *p, bool power)
{
    SIM_CHECK(running == NULL || running->process != p, "a process cannot be ended from within");
    p->alive = false;
    for (size_t i = 0; i < FIBERS_PER_PROCESS; i++) {
        if (p->fibers[i] != NULL) {
            p->fibers[i]->used = false;
            p->fibers[i] = NULL;
        }
    }
    net_process_ended(p->machine, power);
    loop_drop(p);
    vdisk_crash(p->machine, power);
    calls_forget(p->machine);
    memory_reset(p->machine);
    p->powered = !power;
    if (power) { /* its monotonic clock begins anew */
        p->boot_ns = now_ns - sim_between(5 * SIM_S, 90 * SIM_S);
    }
}

void sim_kill(unsigned machine)
{
    sim_trace("machine %u: killed", machine);
    sim_counts.kills++;
    end_process(&processes[machine], false);
}

void sim_power_loss(unsigned machine)
{
    sim_trace("machine %u: power lost", machine);
    sim_counts.power_losses++;
    end_process(&processes[machine], true);
}

void sim_crash_in_disk(unsigned machine, unsigned skip, bool power)
{
    processes[machine].crash_after = skip + 1;
    processes[machine].crash_power = power;
}

bool crash_strikes(struct process *p)
{
    return p->crash_after > 0 && --p->crash_after == 0;
}

static void process_died(struct process *p)
{
    if (p->crash_power) {
        sim_power_loss(p->machine);
    } else {
        sim_kill(p->machine);
    }
    if (sim_on_death != NULL) {
        sim_on_death(p->machine);
    }
}

void crash_now(struct process *p, bool power)
{
    SIM_CHECK(running != NULL && running->process == p, "not in the process that is to end");
    p->crash_power = power;
    to_scheduler(TO_DEATH);
    abort(); /* nobody comes back */
}

void sim_exit(void)
{
    SIM_CHECK(running != NULL, "no process runs");
    crash_now(running->process, false);
}

void sim_pause(unsigned machine, uint64_t until_ns)
{
    processes[machine].paused_until = until_ns;
    sim_counts.pauses++;
    sim_trace("machine %u: paused for %llu ms", machine, (unsigned long long)((until_ns - now_ns) / SIM_MS));
}

void sim_unpause(unsigned machine)
{
    struct process *p = &processes[machine];
    p->paused_until = 0;
    for (size_t i = 0; i < FIBERS_PER_PROCESS; i++) { /* what was put off is due */
        if (p->fibers[i] != NULL && p->fibers[i]->parked && p->fibers[i]->put_off) {
            fiber_wake(p->fibers[i], now_ns);
        }
    }
}

void sim_enter(unsigned machine)
{
    SIM_CHECK(current == NULL && running == NULL && processes[machine].alive, "machine %u", machine);
    current = &processes[machine];
}

void sim_leave(void)
{
    current = NULL;
}

struct process *sim_outside_begin(void)
{
    struct process *inside = current;
    current = NULL;
    return inside;
}

void sim_outside_end(struct process *inside)
{
    current = inside;
}

/* ---- clocks ------------------------------------------------------------------------------------------- */

int64_t sim_wall_ms(unsigned machine)
{
    return SIM_WALL_MS + (int64_t)(now_ns / SIM_MS) + processes[machine].wall_offset_ms;
}

void sim_clock_jump(unsigned machine, int64_t by_ms)
{
    processes[machine].wall_offset_ms += by_ms;
    sim_counts.clock_jumps++;
    sim_trace("machine %u: its clock jumps by %lld ms", machine, (long long)by_ms);
}

/* ---- a life ------------------------------------------------------------------------------------------- */

void sim_open(uint64_t seed, unsigned machines)
{
    SIM_CHECK(machines <= SIM_MACHINES_MAX, "%u machines", machines);
    calls_open(); /* the first time it takes random numbers */
    life_seed = seed;
    random_state = seed * 0x9e3779b97f4a7c15u + 1;
    trace_hash = seed;
    now_ns = 0;
    last_sequence = 0;
    heap_count = 0;
    machine_count = machines;
    sim_counts.lives++;
    memory_open();
    net_open();
    for (unsigned i = 0; i < machines; i++) {
        struct process *p = &processes[i];
        struct job *jobs = p->jobs;
        size_t job_room = p->job_room;
        *p = (struct process){.machine = i, .powered = true, .jobs = jobs, .job_room = job_room};
        p->boot_ns = (uint64_t)0 - sim_between(SIM_S, 4000 * SIM_S);
        p->wall_offset_ms = (int64_t)sim_random(4000) - 2000;
        p->direct = sim_chance(2);
        vdisk_format(i);
    }
}

void sim_close(void)
{
    for (unsigned i = 0; i < machine_count; i++) {
        if (processes[i].alive) {
            end_process(&processes[i], false);
        }
        vdisk_drop(i);
    }
    net_close();
    heap_count = 0;
}
