/* grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md): Check and Watch.
 *
 * A watch is a call on the thread's list of watchers. The sweep wakes it; its pull compares the status with
 * what it sent last. It ends when the node drains, after it said NOT_SERVING. */
#include "api/service.h"

#include "grpc/health/v1/health.pb-c.h"

#include <string.h>

#define STATUS_BYTES_MAX 16

struct watch {
    bool known;
    int last; /* -1: nothing sent yet */
};

static bool service_known(const char *name)
{
    static const char *const names[] = {
        "",
        "dunlin.v1.Recommendations",
        "dunlin.v1.Events",
        "dunlin.v1.Sessions",
        "dunlin.v1.Catalog",
        "dunlin.v1.Cluster",
        "dunlin.v1.Sources",
        "dunlin.v1.DeadLetters",
        "grpc.health.v1.Health",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static bool draining(const struct dn_call *call)
{
    return atomic_load_explicit(&call->thread->server->draining, memory_order_relaxed);
}

static Grpc__Health__V1__HealthCheckResponse__ServingStatus status_now(const struct dn_call *call)
{
    const struct dn_app *app = dn_call_app(call);
    char reason[DN_API_REASON_MAX];
    if (draining(call) ||
        (app->options.ready && !app->options.ready(app->options.ready_data, reason, sizeof reason)))
        return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
}

void dn_svc_health_check(struct dn_call *call, const uint8_t *message, size_t length)
{
    Grpc__Health__V1__HealthCheckRequest *request =
        dn_call_unpack(call, &grpc__health__v1__health_check_request__descriptor, message, length);
    if (!request)
        return;
    if (!service_known(request->service)) {
        dn_call_fail(call, DN_NOT_FOUND, "service: no such service here");
        return;
    }
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = status_now(call);
    dn_call_reply(call, &response.base);
}

bool dn_svc_health_pull(struct dn_call *call)
{
    struct watch *watch = call->state_of_method;
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    bool ending = draining(call);
    response.status = watch->known ? status_now(call)
                                   : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    if ((int)response.status != watch->last) {
        uint8_t bytes[STATUS_BYTES_MAX];
        size_t length = protobuf_c_message_get_packed_size(&response.base);
        DN_ASSERT(length <= sizeof bytes);
        protobuf_c_message_pack(&response.base, bytes);
        if (dn_call_stream_put(call, bytes, length)) {
            watch->last = (int)response.status;
            return true;
        }
        dn_call_stream_end(call, DN_EXHAUSTED, "out of memory");
    } else if (ending) {
        dn_call_stream_end(call, DN_UNAVAILABLE, "the node is shutting down");
    }
    return false;
}

void dn_svc_health_watch(struct dn_call *call, const uint8_t *message, size_t length)
{
    Grpc__Health__V1__HealthCheckRequest *request =
        dn_call_unpack(call, &grpc__health__v1__health_check_request__descriptor, message, length);
    if (!request)
        return;
    struct dn_thread *thread = call->thread;
    if (thread->watcher_count >= DN_WATCHERS_MAX) {
        dn_call_fail(call, DN_EXHAUSTED, "%d clients watch already: use Check", DN_WATCHERS_MAX);
        return;
    }
    struct watch *watch = dn_arena_zalloc(call->arena, sizeof *watch);
    if (!watch) {
        dn_fail_memory(call);
        return;
    }
    watch->known = service_known(request->service);
    watch->last = -1;
    call->state_of_method = watch;
    thread->watcher_count++;
    call->list_next = thread->watchers;
    call->list_link = &thread->watchers;
    if (call->list_next)
        call->list_next->list_link = &call->list_next;
    thread->watchers = call;
    dn_call_stream_begin(call);
}
