/* "What goes with this item, for this user": the session as it would be had they just viewed it. So every
 * source that listens to the newest event listens to the item, and the blend stays the one that learned. */
#include "recommend/source.h"

#include <string.h>

enum dn_code dn_session_anchored(const struct dn_session_view *session, const struct dn_item *item,
                                 int64_t now_ms, struct dn_arena *arena, struct dn_session_view *ret,
                                 struct dn_error *err)
{
    struct dn_session_view anchored = {.start_ms = now_ms, .last_ms = now_ms};

    if (session)
        anchored = *session;
    size_t count = anchored.event_count;
    struct dn_event_view *events = dn_arena_alloc(arena, (count + 1) * sizeof(*events));
    if (!events)
        return dn_arena_full(err);
    if (count > 0)
        memcpy(events, anchored.events, count * sizeof(*events));
    events[count] = (struct dn_event_view){
        .item = item->id,
        .item_length = item->id_length,
        .item_hash = item->id_hash,
        .type = DN_EVENT_VIEW,
        .time_ms = anchored.last_ms,
        .weight = 1,
        .current = true,
    };
    anchored.events = events;
    anchored.event_count = count + 1;
    anchored.session_events++;
    if (anchored.counts[DN_EVENT_VIEW] < UINT16_MAX)
        anchored.counts[DN_EVENT_VIEW]++;
    *ret = anchored;
    return DN_OK;
}
