/* Log entries: consensus/entry.h. What is understood is encoded again: the same bytes. */
#include "base/error.h"
#include "consensus/entry.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#define RECORDS_MAX 4096u

const unsigned dn_fuzz_runs = 1000000;

static void encode_again(const struct entry_view *view, const uint8_t *bytes, size_t length)
{
    static struct entry_record records[RECORDS_MAX];
    struct entry_mark marks[DN_MEMBERS_MAX];
    struct entry_head head = view->head;
    size_t offset = 0, total = 0;
    for (uint32_t i = 0; i < head.mark_count; i++) {
        marks[i] = entry_mark_at(view, i);
    }
    for (uint32_t i = 0; i < head.count; i++) {
        records[i] = entry_next(view, &offset);
        total += records[i].length;
    }
    head.marks = marks;
    size_t size = entry_size(&head, total);
    DN_ASSERT(size == length);
    uint8_t *again = malloc(size);
    DN_ASSERT(again != NULL);
    entry_encode(&head, records, again);
    DN_ASSERT(memcmp(again, bytes, length) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct entry_view view;
    struct dn_error err;
    if (entry_decode(bytes, length, &view, &err) == DN_OK && view.head.count <= RECORDS_MAX) {
        encode_again(&view, bytes, length);
    }
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static const struct entry_mark marks[2] = {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}};
    static const struct entry_record records[3] = {
        {(const uint8_t *)"abc", 3}, {(const uint8_t *)"0123456789", 10}, {(const uint8_t *)"x", 1}};
    struct entry_head head = {.time_ms = 1700000000000, .nonce = 77, .sequence = 5};
    size_t total = 0;
    if (n > 3) {
        return 0;
    }
    head.count = n;
    head.has_tick = n % 2 == 0;
    head.mark_count = head.has_tick ? n : 0;
    head.marks = marks;
    for (unsigned i = 0; i < n; i++) {
        total += records[i].length;
    }
    size_t size = entry_size(&head, total);
    DN_ASSERT(size <= max);
    entry_encode(&head, records, out);
    return size;
}
