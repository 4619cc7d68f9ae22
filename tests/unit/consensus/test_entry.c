/* The entry container: round trips, and what a decoder of bytes from disk must survive. */
#include "consensus/entry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t z = (rng_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#define RECORDS_MAX 20

struct sample {
    struct entry_head head;
    struct entry_mark marks[DN_MEMBERS_MAX];
    struct entry_record records[RECORDS_MAX];
    uint8_t bytes[RECORDS_MAX * 64];
    uint8_t *entry;
    size_t length;
};

static void make(struct sample *s)
{
    size_t total = 0, used = 0;
    memset(s, 0, sizeof *s);
    s->head = (struct entry_head){.time_ms = (int64_t)rng(),
                                  .nonce = rng(),
                                  .sequence = rng(),
                                  .count = (uint32_t)(rng() % RECORDS_MAX),
                                  .has_tick = rng() % 2,
                                  .marks = s->marks};
    s->head.mark_count = s->head.has_tick ? (uint32_t)(rng() % (DN_MEMBERS_MAX + 1)) : 0;
    for (unsigned i = 0; i < s->head.mark_count; i++) {
        s->marks[i] = (struct entry_mark){rng(), rng(), rng(), rng(), rng()};
    }
    for (unsigned i = 0; i < s->head.count; i++) {
        size_t length = 1 + rng() % 63;
        for (size_t k = 0; k < length; k++) {
            s->bytes[used + k] = (uint8_t)rng();
        }
        s->records[i] = (struct entry_record){s->bytes + used, length};
        used += length;
        total += length;
    }
    s->length = entry_size(&s->head, total);
    s->entry = malloc(s->length);
    entry_encode(&s->head, s->records, s->entry);
}

static void what_was_written_is_read(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 2000; round++) {
        struct sample s;
        struct entry_view view;
        struct dn_error err = {0};
        size_t offset = 0;
        make(&s);
        assert_int_equal(s.length % 8, 0);
        assert_int_equal(entry_decode(s.entry, s.length, &view, &err), DN_OK);
        assert_true(view.head.time_ms == s.head.time_ms && view.head.nonce == s.head.nonce &&
                    view.head.sequence == s.head.sequence && view.head.has_tick == s.head.has_tick);
        assert_int_equal(view.head.count, s.head.count);
        assert_int_equal(view.head.mark_count, s.head.mark_count);
        for (uint32_t i = 0; i < view.head.mark_count; i++) {
            struct entry_mark mark = entry_mark_at(&view, i);
            assert_memory_equal(&mark, &s.marks[i], sizeof mark);
        }
        for (uint32_t i = 0; i < view.head.count; i++) {
            struct entry_record record = entry_next(&view, &offset);
            assert_int_equal(record.length, s.records[i].length);
            assert_memory_equal(record.bytes, s.records[i].bytes, record.length);
        }
        free(s.entry);
    }
}

/* Walks whatever the decoder let through: the sanitizers watch. */
static void walk(const struct entry_view *view)
{
    size_t offset = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < view->head.mark_count; i++) {
        sum += entry_mark_at(view, i).hash;
    }
    for (uint32_t i = 0; i < view->head.count; i++) {
        struct entry_record record = entry_next(view, &offset);
        for (size_t k = 0; k < record.length; k++) {
            sum += record.bytes[k];
        }
    }
    assert_true(sum + 1 != 0 || sum == UINT64_MAX);
}

static void damage_is_refused_or_harmless(void **unused)
{
    (void)unused;
    unsigned passed = 0, refused = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct sample s;
        struct entry_view view;
        struct dn_error err = {0};
        make(&s);
        size_t length = s.length;
        unsigned changes = 1 + (unsigned)(rng() % 4);
        for (unsigned i = 0; i < changes; i++) {
            size_t at = rng() % (rng() % 2 ? s.length : 40 < s.length ? 40 : s.length);
            s.entry[at] = rng() % 3 == 0 ? 0xff : (uint8_t)rng();
        }
        if (rng() % 4 == 0) {
            length = rng() % (s.length + 1);
        }
        uint8_t *exact = malloc(length + 1); /* so that one byte too far is seen */
        memcpy(exact, s.entry, length);
        exact = realloc(exact, length == 0 ? 1 : length);
        if (entry_decode(exact, length, &view, &err) == DN_OK) {
            walk(&view);
            passed++;
        } else {
            assert_true(err.message[0] != 0);
            refused++;
        }
        free(exact);
        free(s.entry);
    }
    assert_true(passed > 100 && refused > 100);
}

static void unknown_versions_are_told_apart_from_damage(void **unused)
{
    struct sample s;
    struct entry_view view;
    struct dn_error err;
    (void)unused;
    make(&s);
    s.entry[0] = ENTRY_VERSION + 1;
    assert_int_equal(entry_decode(s.entry, s.length, &view, &err), DN_UNIMPLEMENTED);
    s.entry[0] = ENTRY_VERSION;
    s.entry[1] = ENTRY_LEVEL + 1;
    assert_int_equal(entry_decode(s.entry, s.length, &view, &err), DN_UNIMPLEMENTED);
    s.entry[1] = ENTRY_LEVEL;
    s.entry[2] |= 0x80;
    assert_int_equal(entry_decode(s.entry, s.length, &view, &err), DN_CORRUPT);
    free(s.entry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(damage_is_refused_or_harmless),
        cmocka_unit_test(unknown_versions_are_told_apart_from_damage),
    };
    const char *seed = getenv("DN_SEED");
    rng_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    printf("# DN_SEED=%llu\n", (unsigned long long)rng_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
