#include "consensus/entry.h"

#include "base/buffer.h"

#include <string.h>

static void put_u32(uint8_t *out, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static void put_u64(uint8_t *out, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static size_t tick_bytes(const struct entry_head *head)
{
    return head->has_tick ? 8 + (size_t)head->mark_count * ENTRY_MARK_BYTES : 0;
}

size_t entry_size(const struct entry_head *head, size_t records_bytes)
{
    size_t size = ENTRY_HEADER_BYTES + tick_bytes(head) + (size_t)head->count * 4 + records_bytes;
    return (size + 7) & ~(size_t)7;
}

void entry_encode(const struct entry_head *head, const struct entry_record *records, uint8_t *out)
{
    size_t at = ENTRY_HEADER_BYTES;
    out[0] = ENTRY_VERSION;
    out[1] = head->level != 0 ? head->level : 1;
    out[2] = head->has_tick ? ENTRY_FLAG_TICK : 0;
    out[3] = 0;
    put_u32(out + 4, head->count);
    put_u64(out + 8, (uint64_t)head->time_ms);
    put_u64(out + 16, head->nonce);
    put_u64(out + 24, head->sequence);
    if (head->has_tick) {
        put_u32(out + at, head->mark_count);
        put_u32(out + at + 4, 0);
        at += 8;
        for (uint32_t i = 0; i < head->mark_count; i++) {
            const struct entry_mark *mark = &head->marks[i];
            put_u64(out + at, mark->raft_id);
            put_u64(out + at + 8, mark->nonce);
            put_u64(out + at + 16, mark->stamp_us);
            put_u64(out + at + 24, mark->hash_index);
            put_u64(out + at + 32, mark->hash);
            at += ENTRY_MARK_BYTES;
        }
    }
    for (uint32_t i = 0; i < head->count; i++) {
        put_u32(out + at, (uint32_t)records[i].length);
        memcpy(out + at + 4, records[i].bytes, records[i].length);
        at += 4 + records[i].length;
    }
    while (at % 8 != 0) {
        out[at++] = 0;
    }
}

/* The records must fill the range exactly, but for fewer than 8 zero bytes. */
static enum dn_code check_records(const uint8_t *bytes, size_t length, uint32_t count, struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = dn_reader_u32(&reader);
        if (reader.failed || size == 0 || size > DN_RECORD_MAX || size > dn_reader_left(&reader)) {
            return dn_fail(err, DN_CORRUPT, "entry: record %u of %u has length %u", i, count, size);
        }
        dn_reader_bytes(&reader, size);
    }
    if (dn_reader_left(&reader) >= 8) {
        return dn_fail(err, DN_CORRUPT, "entry: %zu bytes after the last record", dn_reader_left(&reader));
    }
    while (dn_reader_left(&reader) > 0) {
        if (dn_reader_u8(&reader) != 0) {
            return dn_fail(err, DN_CORRUPT, "entry: padding is not zero");
        }
    }
    return DN_OK;
}

enum dn_code entry_decode(const uint8_t *bytes, size_t length, struct entry_view *ret, struct dn_error *err)
{
    struct entry_view view = {0};
    struct dn_reader reader;
    enum dn_code code;
    dn_reader_init(&reader, bytes, length);
    uint8_t version = dn_reader_u8(&reader);
    uint8_t level = dn_reader_u8(&reader);
    uint16_t flags = dn_reader_u16(&reader);
    view.head.count = dn_reader_u32(&reader);
    view.head.time_ms = dn_reader_i64(&reader);
    view.head.nonce = dn_reader_u64(&reader);
    view.head.sequence = dn_reader_u64(&reader);
    if (reader.failed || length % 8 != 0) {
        return dn_fail(err, DN_CORRUPT, "entry: %zu bytes is no entry", length);
    }
    if (version != ENTRY_VERSION || level > ENTRY_LEVEL || level == 0) {
        return dn_fail(
            err, DN_UNIMPLEMENTED,
            "entry of format %u, level %u; this program reads format %u up to level %u: upgrade it", version,
            level, ENTRY_VERSION, ENTRY_LEVEL);
    }
    view.head.level = level;
    if ((flags & ~ENTRY_FLAG_TICK) != 0 || view.head.count > ENTRY_RECORDS_MAX) {
        return dn_fail(err, DN_CORRUPT, "entry: flags %u, %u records", flags, view.head.count);
    }
    if (flags & ENTRY_FLAG_TICK) {
        view.head.has_tick = true;
        view.head.mark_count = dn_reader_u32(&reader);
        uint32_t reserved = dn_reader_u32(&reader);
        if (reader.failed || reserved != 0 || view.head.mark_count > DN_MEMBERS_MAX) {
            return dn_fail(err, DN_CORRUPT, "entry: bad tick section");
        }
        view.mark_bytes = dn_reader_bytes(&reader, (size_t)view.head.mark_count * ENTRY_MARK_BYTES);
        if (reader.failed) {
            return dn_fail(err, DN_CORRUPT, "entry: tick section is cut short");
        }
    }
    view.record_bytes = bytes + reader.offset;
    view.record_length = length - reader.offset;
    code = check_records(view.record_bytes, view.record_length, view.head.count, err);
    if (code == DN_OK) {
        *ret = view;
    }
    return code;
}

struct entry_mark entry_mark_at(const struct entry_view *view, uint32_t i)
{
    struct dn_reader reader;
    struct entry_mark mark;
    dn_reader_init(&reader, view->mark_bytes + (size_t)i * ENTRY_MARK_BYTES, ENTRY_MARK_BYTES);
    mark.raft_id = dn_reader_u64(&reader);
    mark.nonce = dn_reader_u64(&reader);
    mark.stamp_us = dn_reader_u64(&reader);
    mark.hash_index = dn_reader_u64(&reader);
    mark.hash = dn_reader_u64(&reader);
    return mark;
}

struct entry_record entry_next(const struct entry_view *view, size_t *offset)
{
    struct dn_reader reader;
    struct entry_record record;
    dn_reader_init(&reader, view->record_bytes + *offset, view->record_length - *offset);
    record.length = dn_reader_u32(&reader);
    record.bytes = dn_reader_bytes(&reader, record.length);
    DN_ASSERT(!reader.failed); /* entry_decode checked it */
    *offset += 4 + record.length;
    return record;
}
