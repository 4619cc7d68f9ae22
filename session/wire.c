#include "session/wire.h"

static void decode_source(struct dn_reader *reader, struct dn_record_head *ret)
{
    size_t length = 0;
    ret->source = (const char *)dn_reader_blob(reader, DN_SOURCE_MAX, &length);
    ret->source_length = (uint16_t)length;
    ret->partition = dn_reader_u32(reader);
}

static bool decode_stream(struct dn_reader *reader, struct dn_record_head *ret)
{
    decode_source(reader, ret);
    ret->begins_at = dn_reader_i64(reader);
    ret->next_offset = dn_reader_i64(reader);
    return !reader->failed && ret->begins_at >= DN_OFFSET_UNSET && ret->next_offset >= ret->begins_at &&
           ret->next_offset >= 0;
}

static bool decode_count(struct dn_reader *reader, struct dn_record_head *ret)
{
    ret->count = dn_reader_u32(reader);
    return !reader->failed && ret->count <= DN_EVENTS_PER_RECORD_MAX;
}

bool dn_decode_head(struct dn_reader *reader, struct dn_record_head *ret)
{
    *ret = (struct dn_record_head){.kind = dn_reader_u8(reader)};
    ret->version = dn_reader_u8(reader);
    unsigned newest = ret->kind == DN_RECORD_SOURCE     ? DN_RECORD_VERSION_FINISHED
                      : ret->kind == DN_RECORD_SETTINGS ? DN_RECORD_VERSION_NEAR
                                                        : DN_RECORD_VERSION_STREAMS;
    /* Settings have no version 3: builds before 4 refuse it, and so do we. */
    bool skipped = ret->kind == DN_RECORD_SETTINGS && ret->version == DN_RECORD_VERSION_FINISHED;
    if (reader->failed || ret->version < DN_RECORD_VERSION_MIN || ret->version > newest || skipped) {
        return false;
    }
    switch (ret->kind) {
    case DN_RECORD_STREAM:
        return decode_stream(reader, ret) && decode_count(reader, ret);
    case DN_RECORD_EVENTS:
        return decode_count(reader, ret);
    case DN_RECORD_ERASE:
    case DN_RECORD_SETTINGS:
        return true;
    case DN_RECORD_SOURCE:
        decode_source(reader, ret);
        ret->next_offset = dn_reader_i64(reader);
        return ret->version >= 2 && !reader->failed && ret->next_offset >= DN_OFFSET_UNSET;
    case DN_RECORD_DEAD_WRITTEN:
    case DN_RECORD_STALL:
        return ret->version >= 2;
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

bool dn_decode_dead(struct dn_reader *reader, struct dn_dead_in *ret)
{
    ret->offset = dn_reader_i64(reader);
    ret->reason = dn_reader_u8(reader);
    return !reader->failed;
}

void dn_encode_settings(struct dn_buffer *out, const struct dn_shard_settings *settings, bool near)
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
    if (near) {
        dn_buffer_u32(out, settings->near_cells);
        dn_buffer_u32(out, settings->near_visitors);
        dn_buffer_i64(out, settings->near_half_life_ms);
    }
}

bool dn_decode_settings(struct dn_reader *reader, bool near, struct dn_shard_settings *ret)
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
    if (near) {
        ret->near_cells = dn_reader_u32(reader);
        ret->near_visitors = dn_reader_u32(reader);
        ret->near_half_life_ms = dn_reader_i64(reader);
    }
    return !reader->failed;
}
