/* The deadline wheel of one thread: a hashed wheel (Varghese and Lauck, "Hashed and hierarchical timing
 * wheels", 1987). A call sits in the slot of its deadline's tick; a tick visits the slots that passed and
 * expires what is due. Adding and removing cost a few stores; the uv timer runs only while calls are on the
 * wheel. */
#include "api/server.h"
#include "base/clock.h"

static uint64_t tick_of(uint64_t time_us)
{
    return time_us / DN_WHEEL_TICK_US;
}

void dn_wheel_add(struct dn_call *call, uint64_t deadline_us)
{
    struct dn_thread *thread = call->thread;
    DN_ASSERT(!call->wheel_link);
    if (!thread->tick_running) {
        thread->wheel_tick = tick_of(dn_monotonic_us());
        uv_timer_start(&thread->tick, dn_wheel_tick, DN_WHEEL_TICK_US / 1000, DN_WHEEL_TICK_US / 1000);
        thread->tick_running = true;
    }
    /* Rounded up, and never into a slot that this turn has already visited. */
    uint64_t tick = tick_of(deadline_us) + 1;
    if (tick <= thread->wheel_tick)
        tick = thread->wheel_tick + 1;
    struct dn_call **slot = &thread->wheel[tick % DN_WHEEL_SLOTS];
    call->deadline_us = deadline_us;
    call->wheel_next = *slot;
    call->wheel_link = slot;
    if (*slot)
        (*slot)->wheel_link = &call->wheel_next;
    *slot = call;
    thread->wheel_count++;
}

void dn_wheel_remove(struct dn_call *call)
{
    if (!call->wheel_link)
        return;
    *call->wheel_link = call->wheel_next;
    if (call->wheel_next)
        call->wheel_next->wheel_link = call->wheel_link;
    call->wheel_next = NULL;
    call->wheel_link = NULL;
    DN_ASSERT(call->thread->wheel_count > 0);
    call->thread->wheel_count--;
}

/* Takes the due calls out of a slot one by one: expiring one may take it (only it) off the wheel or put it
 * into a later slot, never touch its neighbours' deadlines. */
static void slot_expire(struct dn_thread *thread, uint64_t tick, uint64_t now_us)
{
    struct dn_call **slot = &thread->wheel[tick % DN_WHEEL_SLOTS];
    struct dn_call *due = NULL;
    for (struct dn_call *call = *slot, *next; call; call = next) {
        next = call->wheel_next;
        if (call->deadline_us > now_us)
            continue;
        dn_wheel_remove(call);
        call->wheel_next = due;
        due = call;
    }
    while (due) {
        struct dn_call *call = due;
        due = call->wheel_next;
        call->wheel_next = NULL;
        dn_call_expired(call, now_us);
    }
}

void dn_wheel_tick(uv_timer_t *timer)
{
    struct dn_thread *thread = timer->data;
    uint64_t now_us = dn_monotonic_us(), last = tick_of(now_us);
    /* After a long pause (a stopped process) one round visits every slot. */
    if (last - thread->wheel_tick > DN_WHEEL_SLOTS)
        thread->wheel_tick = last - DN_WHEEL_SLOTS;
    while (thread->wheel_tick < last) {
        thread->wheel_tick++;
        slot_expire(thread, thread->wheel_tick, now_us);
    }
    if (thread->wheel_count == 0) {
        uv_timer_stop(timer);
        thread->tick_running = false;
    }
    dn_thread_flush(thread);
}
