#include "session/wire.h"

bool dn_decode_head(struct dn_reader *reader, struct dn_record_head *ret)
{
    *ret = (struct dn_record_head){.kind = dn_reader_u8(reader)};
    uint8_t version = dn_reader_u8(reader);
    if (reader->failed || version != DN_RECORD_VERSION) {
        return false;
    }
    switch (ret->kind) {
    case DN_RECORD_STREAM: {
        size_t length = 0;
        ret->source = (const char *)dn_reader_blob(reader, DN_SOURCE_MAX, &length);
        ret->source_length = (uint16_t)length;
        ret->partition = dn_reader_u32(reader);
        ret->begins_at = dn_reader_i64(reader);
        ret->next_offset = dn_reader_i64(reader);
        if (reader->failed || ret->begins_at < DN_OFFSET_UNSET || ret->next_offset < ret->begins_at ||
            ret->next_offset < 0) {
            return false;
        }
    }
        /* fall through */
    case DN_RECORD_EVENTS:
        ret->count = dn_reader_u32(reader);
        return !reader->failed && ret->count <= DN_EVENTS_PER_RECORD_MAX;
    case DN_RECORD_ERASE:
    case DN_RECORD_SETTINGS:
        return true;
    default:
        return false;
    }
}

bool dn_decode_event(struct dn_reader *reader, uint8_t kind, struct dn_event_in *ret)
{
    *ret = (struct dn_event_in){0};
    ret->user.high = dn_reader_u64(reader);
    ret->user.low = dn_reader_u64(reader);
    if (kind == DN_RECORD_STREAM) {
        ret->offset = dn_reader_i64(reader);
    } else {
        ret->event_id = dn_reader_u64(reader);
    }
    ret->time_ms = dn_reader_i64(reader);
    ret->weight = dn_reader_u16(reader);
    ret->type = dn_reader_u8(reader);
    ret->item_length = dn_reader_u16(reader);
    ret->item = (const char *)dn_reader_bytes(reader, ret->item_length);
    return !reader->failed;
}

void dn_encode_settings(struct dn_buffer *out, const struct dn_shard_settings *settings)
{
    dn_buffer_i64(out, settings->gap_ms);
    dn_buffer_i64(out, settings->lateness_ms);
    dn_buffer_i64(out, settings->ahead_ms);
    dn_buffer_i64(out, settings->idle_ms);
    dn_buffer_u32(out, settings->events_per_user);
    dn_buffer_u32(out, settings->ids_per_user);
    dn_buffer_u32(out, settings->users_max);
    dn_buffer_u32(out, settings->items_max);
    dn_buffer_i64(out, settings->trend_half_life_ms);
}

bool dn_decode_settings(struct dn_reader *reader, struct dn_shard_settings *ret)
{
    ret->gap_ms = dn_reader_i64(reader);
    ret->lateness_ms = dn_reader_i64(reader);
    ret->ahead_ms = dn_reader_i64(reader);
    ret->idle_ms = dn_reader_i64(reader);
    ret->events_per_user = dn_reader_u32(reader);
    ret->ids_per_user = dn_reader_u32(reader);
    ret->users_max = dn_reader_u32(reader);
    ret->items_max = dn_reader_u32(reader);
    ret->trend_half_life_ms = dn_reader_i64(reader);
    return !reader->failed;
}
