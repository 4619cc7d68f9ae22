#include "replay/audit.h"

#include <stdbool.h>
#include <stdlib.h>

static int compare(const void *left, const void *right)
{
    const struct dn_audit_event *a = left, *b = right;

    if (a->time_ms != b->time_ms)
        return a->time_ms < b->time_ms ? -1 : 1;
    if (a->item != b->item)
        return a->item < b->item ? -1 : 1;
    return (a->type > b->type) - (a->type < b->type);
}

/* How many events from `at` on are equal to the first of them. */
static size_t run_length(const struct dn_audit_event *events, size_t count, size_t at)
{
    size_t end = at;

    while (end < count && compare(&events[at], &events[end]) == 0)
        end++;
    return end - at;
}

void dn_audit_user(struct dn_audit_event *acked, size_t acked_count, struct dn_audit_event *shown,
                   size_t shown_count, size_t limit, struct dn_audit_result *result)
{
    bool full = shown_count >= limit;
    size_t a = 0, s = 0;

    if (acked_count > 0)
        qsort(acked, acked_count, sizeof *acked, compare);
    if (shown_count > 0)
        qsort(shown, shown_count, sizeof *shown, compare);
    result->acked += acked_count;
    while (a < acked_count || s < shown_count) {
        int order = a == acked_count ? 1 : s == shown_count ? -1 : compare(&acked[a], &shown[s]);
        size_t wanted = order <= 0 ? run_length(acked, acked_count, a) : 0;
        size_t there = order >= 0 ? run_length(shown, shown_count, s) : 0;

        if (wanted == 0) {
            result->others += there;
        } else if (there >= wanted) {
            result->present += wanted;
            result->repeated += there - wanted;
        } else {
            bool may_have_left = full && shown_count > 0 && acked[a].time_ms <= shown[0].time_ms;

            result->present += there;
            if (may_have_left)
                result->beyond += wanted - there;
            else
                result->missing += wanted - there;
        }
        a += wanted;
        s += there;
    }
}
