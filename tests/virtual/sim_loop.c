/* libuv's loop, timers, threads and pool, on the simulator. One loop a process, turned in libuv's order:
 * time, timers, idle, prepare, poll, check, closing (libuv 1.44, uv_run). What other parts have for a loop
 * (bytes arrived, a job is done) is posted, and called where it polls. A turn costs some microseconds of
 * time: what arrives meanwhile is handled together in the next one, as with a real loop. */
#include "tests/virtual/internal.h"

#define TURN_MIN_NS (5 * SIM_US)
#define TURN_MAX_NS (40 * SIM_US)

struct post {
    void (*done)(void *arg);
    void *arg;
};

struct loop {
    uv_loop_t *uv;
    struct process *process;
    struct fiber *fiber; /* the one in uv_run, while it waits */
    struct post *posts;
    size_t post_count, post_room;
    uv_handle_t *handles; /* all that are not closed, by handle_queue */
    uv_handle_t *closing; /* by next_closing */
    uint64_t timers;
    unsigned handle_count, requests;
};

enum { FLAG_ACTIVE = 1, FLAG_CLOSING = 2 };

/* ---- the loop and its handles ------------------------------------------------------------------------- */

static struct loop *loop_of(const uv_loop_t *uv)
{
    return uv->internal_fields;
}

struct process *loop_process(const uv_loop_t *uv)
{
    return loop_of(uv)->process;
}

static uint64_t mono_ms(const struct process *p)
{
    return (sim_now() - p->boot_ns) / SIM_MS;
}

int uv_loop_init(uv_loop_t *uv)
{
    struct loop *loop = memory_real(sizeof *loop);
    SIM_CHECK(current != NULL && current->loop == NULL, "one loop a process");
    memset(uv, 0, sizeof *uv);
    uv->internal_fields = loop;
    loop->uv = uv;
    loop->process = current;
    current->loop = loop;
    uv->time = mono_ms(current);
    return 0;
}

void loop_drop(struct process *p)
{
    if (p->loop != NULL) {
        memory_real_free(p->loop->posts);
        memory_real_free(p->loop);
        p->loop = NULL;
    }
}

int uv_loop_close(uv_loop_t *uv)
{
    struct loop *loop = loop_of(uv);
    if (loop->handle_count > 0 || loop->requests > 0) {
        return UV_EBUSY;
    }
    loop_drop(loop->process);
    return 0;
}

static void wake(struct loop *loop)
{
    if (loop->fiber != NULL) {
        fiber_wake(loop->fiber, sim_now());
    }
}

void loop_post(struct process *p, void (*done)(void *arg), void *arg)
{
    struct loop *loop = p->loop;
    SIM_CHECK(loop != NULL, "machine %u has no loop", p->machine);
    if (loop->post_count == loop->post_room) {
        loop->post_room = loop->post_room == 0 ? 64 : loop->post_room * 2;
        loop->posts = memory_real_grow(loop->posts, loop->post_room * sizeof *loop->posts);
    }
    loop->posts[loop->post_count++] = (struct post){done, arg};
    wake(loop);
}

void loop_unpost(struct process *p, const void *arg)
{
    for (size_t i = 0; i < p->loop->post_count; i++) {
        if (p->loop->posts[i].arg == arg) {
            p->loop->posts[i].done = NULL;
        }
    }
}

void loop_request(uv_loop_t *uv, int by)
{
    loop_of(uv)->requests += (unsigned)by;
}

void handle_add(uv_loop_t *uv, uv_handle_t *handle, uv_handle_type type)
{
    struct loop *loop = loop_of(uv);
    handle->loop = uv;
    handle->type = type;
    handle->flags = 0;
    handle->close_cb = NULL;
    handle->next_closing = NULL;
    handle->handle_queue[0] = loop->handles; /* next */
    handle->handle_queue[1] = NULL;          /* previous */
    if (loop->handles != NULL) {
        loop->handles->handle_queue[1] = handle;
    }
    loop->handles = handle;
    loop->handle_count++;
}

static void handle_remove(uv_handle_t *handle)
{
    struct loop *loop = loop_of(handle->loop);
    uv_handle_t *next = handle->handle_queue[0], *previous = handle->handle_queue[1];
    if (previous != NULL) {
        previous->handle_queue[0] = next;
    } else {
        loop->handles = next;
    }
    if (next != NULL) {
        next->handle_queue[1] = previous;
    }
    loop->handle_count--;
}

void handle_active(uv_handle_t *handle, bool active)
{
    handle->flags = active ? handle->flags | FLAG_ACTIVE : handle->flags & ~(unsigned)FLAG_ACTIVE;
}

bool handle_is_active(const uv_handle_t *handle)
{
    return (handle->flags & FLAG_ACTIVE) != 0;
}

int uv_is_active(const uv_handle_t *handle)
{
    return handle_is_active(handle);
}

int uv_is_closing(const uv_handle_t *handle)
{
    return (handle->flags & FLAG_CLOSING) != 0;
}

void uv_close(uv_handle_t *handle, uv_close_cb close_cb)
{
    struct loop *loop = loop_of(handle->loop);
    SIM_CHECK((handle->flags & FLAG_CLOSING) == 0, "a handle is closed twice");
    handle->close_cb = close_cb;
    handle->flags = FLAG_CLOSING;
    if (handle->type == UV_TCP) {
        tcp_close(handle);
    }
    loop_unpost(loop->process, handle);
    handle->next_closing = loop->closing;
    loop->closing = handle;
    wake(loop);
}

static void run_closing(struct loop *loop)
{
    uv_handle_t *handle = loop->closing;
    loop->closing = NULL;
    while (handle != NULL) {
        uv_handle_t *next = handle->next_closing;
        if (handle->type == UV_TCP) {
            tcp_finish(handle);
        }
        handle_remove(handle);
        if (handle->close_cb != NULL) {
            handle->close_cb(handle);
        }
        handle = next;
    }
}

/* ---- timers ------------------------------------------------------------------------------------------- */

int uv_timer_init(uv_loop_t *uv, uv_timer_t *timer)
{
    handle_add(uv, (uv_handle_t *)timer, UV_TIMER);
    timer->timer_cb = NULL;
    timer->timeout = timer->repeat = 0;
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout_ms, uint64_t repeat_ms)
{
    if (uv_is_closing((uv_handle_t *)timer) || cb == NULL) {
        return UV_EINVAL;
    }
    timer->timer_cb = cb;
    timer->timeout = timer->loop->time + timeout_ms;
    timer->repeat = repeat_ms;
    timer->start_id = loop_of(timer->loop)->timers++;
    handle_active((uv_handle_t *)timer, true);
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    handle_active((uv_handle_t *)timer, false);
    return 0;
}

static uv_timer_t *first_timer(const struct loop *loop)
{
    uv_timer_t *first = NULL;
    for (uv_handle_t *h = loop->handles; h != NULL; h = h->handle_queue[0]) {
        uv_timer_t *timer = (uv_timer_t *)h;
        if (h->type == UV_TIMER && handle_is_active(h) &&
            (first == NULL || timer->timeout < first->timeout ||
             (timer->timeout == first->timeout && timer->start_id < first->start_id))) {
            first = timer;
        }
    }
    return first;
}

static void run_timers(struct loop *loop)
{
    for (;;) {
        uv_timer_t *timer = first_timer(loop);
        if (timer == NULL || timer->timeout > loop->uv->time) {
            return;
        }
        uv_timer_stop(timer);
        if (timer->repeat != 0) {
            uv_timer_start(timer, timer->timer_cb, timer->repeat, timer->repeat);
        }
        timer->timer_cb(timer);
    }
}

uint64_t uv_now(const uv_loop_t *uv)
{
    return uv->time;
}

/* ---- idle, prepare, check, async ---------------------------------------------------------------------- */

#define WATCHER(name, NAME)                                                                                  \
    int uv_##name##_init(uv_loop_t *uv, uv_##name##_t *handle)                                               \
    {                                                                                                        \
        handle_add(uv, (uv_handle_t *)handle, UV_##NAME);                                                    \
        handle->name##_cb = NULL;                                                                            \
        return 0;                                                                                            \
    }                                                                                                        \
    int uv_##name##_start(uv_##name##_t *handle, uv_##name##_cb cb)                                          \
    {                                                                                                        \
        if (!handle_is_active((uv_handle_t *)handle)) {                                                      \
            handle->name##_cb = cb;                                                                          \
            handle_active((uv_handle_t *)handle, true);                                                      \
        }                                                                                                    \
        return 0;                                                                                            \
    }                                                                                                        \
    int uv_##name##_stop(uv_##name##_t *handle)                                                              \
    {                                                                                                        \
        handle_active((uv_handle_t *)handle, false);                                                         \
        return 0;                                                                                            \
    }                                                                                                        \
    static void run_##name(struct loop *loop)                                                                \
    {                                                                                                        \
        for (uv_handle_t *h = loop->handles, *next; h != NULL; h = next) {                                   \
            next = h->handle_queue[0];                                                                       \
            if (h->type == UV_##NAME && handle_is_active(h)) {                                               \
                uv_##name##_t *handle = (uv_##name##_t *)h;                                                  \
                handle->name##_cb(handle);                                                                   \
            }                                                                                                \
        }                                                                                                    \
    }

WATCHER(idle, IDLE)
WATCHER(prepare, PREPARE)
WATCHER(check, CHECK)

int uv_async_init(uv_loop_t *uv, uv_async_t *async, uv_async_cb cb)
{
    handle_add(uv, (uv_handle_t *)async, UV_ASYNC);
    async->async_cb = cb;
    async->pending = 0;
    handle_active((uv_handle_t *)async, true);
    return 0;
}

static void async_due(void *arg)
{
    uv_async_t *async = arg;
    async->pending = 0;
    async->async_cb(async);
}

int uv_async_send(uv_async_t *async)
{
    if (!async->pending) {
        async->pending = 1;
        loop_post(loop_process(async->loop), async_due, async);
    }
    return 0;
}

/* ---- turning ------------------------------------------------------------------------------------------ */

static bool alive(const struct loop *loop)
{
    bool active = loop->requests > 0 || loop->closing != NULL;
    for (uv_handle_t *h = loop->handles; h != NULL && !active; h = h->handle_queue[0]) {
        active = handle_is_active(h);
    }
    return active;
}

/* When the loop has to turn again if nothing is posted before. */
static uint64_t sleep_until(const struct loop *loop)
{
    uint64_t now = sim_now();
    if (loop->closing != NULL || loop->post_count > 0) {
        return now;
    }
    for (uv_handle_t *h = loop->handles; h != NULL; h = h->handle_queue[0]) {
        if (h->type == UV_IDLE && handle_is_active(h)) {
            return now;
        }
    }
    uv_timer_t *timer = first_timer(loop);
    if (timer == NULL) {
        return alive(loop) ? UINT64_MAX : now;
    }
    uint64_t left_ms = timer->timeout > loop->uv->time ? timer->timeout - loop->uv->time : 0;
    return now + left_ms * SIM_MS;
}

static void poll(struct loop *loop)
{
    uint64_t until = sleep_until(loop);
    fiber_sleep(sim_between(TURN_MIN_NS, TURN_MAX_NS)); /* what the turn costs: nothing wakes it before */
    while (loop->post_count == 0 && sim_now() < until) {
        loop->fiber = fiber_self();
        fiber_park(until);
        loop->fiber = NULL;
    }
    loop->uv->time = mono_ms(loop->process);
    size_t count = loop->post_count; /* what is posted from now on is for the next turn */
    for (size_t i = 0; i < count; i++) {
        struct post post = loop->posts[i];
        loop->posts[i].done = NULL;
        if (post.done != NULL) {
            post.done(post.arg);
        }
    }
    loop->post_count -= count;
    memmove(loop->posts, loop->posts + count, loop->post_count * sizeof *loop->posts);
}

int uv_run(uv_loop_t *uv, uv_run_mode mode)
{
    struct loop *loop = loop_of(uv);
    SIM_CHECK(mode == UV_RUN_DEFAULT, "mode %d", (int)mode);
    while (alive(loop)) {
        sim_counts.turns++;
        sim_note(loop->process->machine, loop->post_count);
        uv->time = mono_ms(loop->process);
        run_timers(loop);
        run_idle(loop);
        run_prepare(loop);
        poll(loop);
        run_check(loop);
        run_closing(loop);
    }
    return 0;
}

/* ---- the pool, threads, locks ------------------------------------------------------------------------- */

static void work_run(void *arg)
{
    uv_work_t *work = arg;
    work->work_cb(work);
}

static void work_done(void *arg)
{
    uv_work_t *work = arg;
    loop_request(work->loop, -1);
    work->after_work_cb(work, 0);
}

int uv_queue_work(uv_loop_t *uv, uv_work_t *work, uv_work_cb work_cb, uv_after_work_cb after_work_cb)
{
    work->type = UV_WORK;
    work->loop = uv;
    work->work_cb = work_cb;
    work->after_work_cb = after_work_cb;
    loop_request(uv, 1);
    pool_add(loop_process(uv), work_run, work_done, work);
    return 0;
}

struct thread {
    uv_thread_cb entry;
    void *arg;
    bool over;
    struct fiber *joiner;
};

static void thread_entry(void *arg)
{
    struct thread *thread = arg;
    thread->entry(thread->arg);
    thread->over = true;
    if (thread->joiner != NULL) {
        fiber_wake(thread->joiner, sim_now());
    }
}

_Static_assert(sizeof(uv_thread_t) >= sizeof(void *), "a thread's number can be a pointer");

int uv_thread_create(uv_thread_t *tid, uv_thread_cb entry, void *arg)
{
    struct thread *thread = malloc(sizeof *thread);
    *thread = (struct thread){.entry = entry, .arg = arg};
    *tid = (uv_thread_t)(uintptr_t)thread;
    fiber_start(current, thread_entry, thread);
    return 0;
}

int uv_thread_join(uv_thread_t *tid)
{
    struct thread *thread = (struct thread *)(uintptr_t)*tid;
    thread->joiner = fiber_self();
    while (!thread->over) {
        fiber_park(UINT64_MAX);
    }
    free(thread);
    return 0;
}

/* Nobody waits while holding a lock, so a lock is free whenever it is asked for. */
int uv_mutex_init(uv_mutex_t *mutex)
{
    memset(mutex, 0, sizeof *mutex);
    return 0;
}

void uv_mutex_destroy(uv_mutex_t *mutex)
{
    (void)mutex;
}

void uv_mutex_lock(uv_mutex_t *mutex)
{
    int *held = (int *)(void *)mutex;
    SIM_CHECK(*held == 0, "a lock was held while its thread waited");
    *held = 1;
}

void uv_mutex_unlock(uv_mutex_t *mutex)
{
    *(int *)(void *)mutex = 0;
}

void uv_sleep(unsigned ms)
{
    fiber_sleep(ms * SIM_MS + SIM_US);
}

int uv_cancel(uv_req_t *request)
{
    (void)request;
    return UV_EBUSY; /* as when it runs already */
}

/* io_uring's descriptor is polled; the journal is told to use the pool. */
int uv_poll_init(uv_loop_t *uv, uv_poll_t *handle, int fd)
{
    (void)uv, (void)handle, (void)fd;
    return UV_ENOSYS;
}

int uv_poll_start(uv_poll_t *handle, int events, uv_poll_cb cb)
{
    (void)handle, (void)events, (void)cb;
    return UV_ENOSYS;
}

const char *uv_strerror(int error)
{
    return strerror(error == UV_EOF ? 0 : -error);
}
