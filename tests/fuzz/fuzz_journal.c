/* Recovery over a journal's files: journal/journal.h on a disk in memory. The input is one segment file; its
 * checksums are put right in a second pass, so that mutations get behind them. Whatever is there, recovery
 * ends, and what it takes is whole. */
#include "base/error.h"
#include "base/log.h"
#include "journal/format.h"
#include "journal/journal.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 60000;

struct dn_disk_file {
    const uint8_t *bytes;
    size_t length;
};

struct memory_disk {
    struct dn_disk disk; /* first */
    struct dn_disk_file file;
};

static enum dn_code list(struct dn_disk *disk, void (*each)(void *data, const char *name, uint64_t bytes),
                         void *data, struct dn_error *err)
{
    (void)err;
    each(data, "0000000000000001.seg", ((struct memory_disk *)disk)->file.length);
    return DN_OK;
}

static enum dn_code open_file(struct dn_disk *disk, const char *name, struct dn_disk_file **ret,
                              struct dn_error *err)
{
    (void)name, (void)err;
    *ret = &((struct memory_disk *)disk)->file;
    return DN_OK;
}

static enum dn_code read_file(struct dn_disk_file *file, uint64_t offset, void *buffer, size_t length,
                              size_t *ret_length, struct dn_error *err)
{
    (void)err;
    size_t left = offset < file->length ? file->length - (size_t)offset : 0;
    *ret_length = left < length ? left : length;
    memcpy(buffer, file->bytes + offset, *ret_length);
    return DN_OK;
}

static void close_file(struct dn_disk_file *file)
{
    (void)file;
}

static enum dn_code each(void *data, uint64_t index, const struct dn_journal_entry *entry,
                         struct dn_error *err)
{
    uint64_t *next = data;
    uint64_t sum = 0;
    (void)err;
    DN_ASSERT(index == (*next)++);
    for (size_t i = 0; i < entry->length; i++)
        sum += ((const uint8_t *)entry->bytes)[i];
    return sum == UINT64_MAX ? DN_INTERNAL : DN_OK;
}

static void recover_from(const uint8_t *bytes, size_t length)
{
    static const struct dn_disk_ops ops = {
        .list = list, .open = open_file, .read = read_file, .close = close_file};
    struct memory_disk memory = {{&ops, "memory"}, {bytes, length}};
    struct dn_journal_options options = {.disk = &memory.disk, .name = "fuzz", .read_only = true};
    struct dn_journal *journal;
    struct dn_error err;
    if (dn_journal_open(&options, &journal, &err) != DN_OK)
        return;
    for (uint32_t group = 0; group < DN_JOURNAL_GROUPS_MAX; group++) {
        struct dn_journal_group found;
        dn_journal_recovered(journal, group, &found);
        uint64_t next = found.first_index;
        DN_ASSERT(dn_journal_read(journal, group, each, &next, &err) == DN_OK);
        DN_ASSERT(next == found.first_index + found.entry_count);
    }
    dn_journal_destroy(journal);
}

static void repair(uint8_t *bytes, size_t length)
{
    struct header header = {1, 0};
    if (length < HEADER_BYTES)
        return;
    header_encode(&header, bytes);
    for (size_t at = DN_DISK_ALIGN; at + RECORD_BYTES <= length;) {
        uint32_t payload = get_u32(bytes + at + 16);
        size_t room = length - at - RECORD_BYTES;
        if (payload > room || record_size(payload) - RECORD_BYTES > room)
            return;
        struct record record = {.kind = (enum kind)(1 + bytes[at + 9] % KIND_STATE),
                                .group = get_u32(bytes + at + 12) % (DN_JOURNAL_GROUPS_MAX + 1),
                                .length = payload,
                                .sequence = 1,
                                .lsn = at - DN_DISK_ALIGN,
                                .durable_lsn = get_u64(bytes + at + 32)};
        record_seal(&record, bytes + at);
        at += record_size(payload);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    dn_log_set_level(DN_LOG_ERROR);
    recover_from(bytes, length);
    uint8_t *forged = malloc(length == 0 ? 1 : length);
    DN_ASSERT(forged != NULL);
    memcpy(forged, bytes, length);
    repair(forged, length);
    recover_from(forged, length);
    free(forged);
    return 0;
}

static size_t put(uint8_t *out, size_t at, enum kind kind, uint32_t group, const uint64_t *words,
                  size_t count)
{
    memset(out + at, 0, record_size(8 * count));
    out[at + 9] = (uint8_t)kind;
    put_u32(out + at + 12, group);
    put_u32(out + at + 16, (uint32_t)(8 * count));
    for (size_t i = 0; i < count; i++)
        put_u64(out + at + RECORD_BYTES + 8 * i, words[i]);
    return at + record_size(8 * count);
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    const uint64_t term[] = {3, 1}, cut[] = {2}, snapshot[] = {2, 3, 2, 77};
    const uint64_t entries[] = {1, 2, 3, 8, 42, 3, 8, 43}; /* first 1, count 2; term 3, 8 bytes, 42; ... */
    const uint64_t state[] = {3, 1, 0, 0, 1, 1};
    size_t at = DN_DISK_ALIGN;
    if (n > 2 || max < 2 * DN_DISK_ALIGN)
        return 0;
    memset(out, 0, DN_DISK_ALIGN);
    if (n > 0)
        at = put(out, at, KIND_STATE, 1, state, 6);
    at = put(out, at, KIND_TERM, 0, term, 2);
    at = put(out, at, KIND_ENTRIES, 0, entries, 8);
    if (n > 0) {
        at = put(out, at, KIND_ENTRIES, 1, entries, 8);
        at = put(out, at, KIND_SNAPSHOT, 0, snapshot, 4);
    }
    if (n > 1) {
        at = put(out, at, KIND_TRUNCATE, 1, cut, 1);
        at = put(out, at, KIND_REMOVE, 0, NULL, 0);
    }
    repair(out, at);
    return at;
}
