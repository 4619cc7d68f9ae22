#include "chaos/workload_class.h"

#include <string.h>

enum { STATUS_OK = 0, STATUS_INVALID = 3, STATUS_EXHAUSTED = 8 };

/* api/propose.c, api/op.c, consensus/propose.c: refusals before anything is proposed. */
static const char *const refusals[] = {
    "the disk of this node is nearly full",
    "too many proposals wait for this group",
    "the node's queue of writes and waits is full",
};

/* Behind a number between these two, when the message begins so. */
static const char *skip(const char *message, const char *before, const char *behind)
{
    size_t length = strlen(before);
    if (strncmp(message, before, length) != 0)
        return message;
    size_t digits = strspn(message + length, "0123456789");
    const char *at = message + length + digits;
    return digits > 0 && strncmp(at, behind, strlen(behind)) == 0 ? at + strlen(behind) : message;
}

/* "812 calls wait on this node already: ..." */
static bool too_many_calls(const char *message)
{
    static const char text[] = " calls wait on this node already";
    size_t digits = strspn(message, "0123456789");
    return digits > 0 && strncmp(message + digits, text, sizeof text - 1) == 0;
}

static bool refused_before(const char *message)
{
    message = skip(message, "shard ", ": "); /* Publish puts it in front */
    message =
        skip(message, "leader (node ", "): "); /* the leader refused; nobody before it may have taken it */
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (strncmp(message, refusals[i], strlen(refusals[i])) == 0)
            return true;
    return too_many_calls(message);
}

enum chaos_type workload_write_type(int status, const char *message)
{
    switch (status) {
    case STATUS_OK:
        return CHAOS_OK;
    case WORKLOAD_NOT_SENT:
    case STATUS_INVALID:
        return CHAOS_FAIL;
    case STATUS_EXHAUSTED:
        return refused_before(message) ? CHAOS_FAIL : CHAOS_INFO;
    default:
        return CHAOS_INFO;
    }
}

enum chaos_type workload_read_type(int status)
{
    return status == STATUS_OK ? CHAOS_OK : CHAOS_FAIL;
}
