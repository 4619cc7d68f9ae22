/* The snapshot store alone: files, manifests, damage, and how much memory it takes. */
#include "base/log.h"
#include "consensus/snapshot_store.h"

#include <fcntl.h>
#include <ftw.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A state that is never in memory: `length` bytes that follow from their place. */
struct pattern {
    uint64_t length, seed;
    size_t most_bytes; /* of the allocator in use while it was written or read */
    uint64_t read;     /* right bytes seen by build */
    atomic_bool *stop_at_half;
};

static uint64_t word_at(const struct pattern *p, uint64_t at)
{
    uint64_t z = (at / 8 + p->seed) * 0x9e3779b97f4a7c15u;
    return z ^ z >> 29;
}

static size_t in_use(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0; /* not the C library's allocator: the plain build looks */
#else
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#endif
}

static void note_memory(struct pattern *p)
{
    size_t bytes = in_use();
    p->most_bytes = bytes > p->most_bytes ? bytes : p->most_bytes;
}

static enum dn_code pattern_write(void *state, void *capture, struct dn_sink *out, struct dn_error *err)
{
    struct pattern *p = capture;
    uint64_t words[512];
    (void)state;
    for (uint64_t at = 0; at < p->length;) {
        size_t part = p->length - at < sizeof words ? (size_t)(p->length - at) : sizeof words;
        for (size_t i = 0; i < sizeof words / 8; i++) {
            words[i] = word_at(p, at + i * 8);
        }
        if (dn_sink_write(out, words, part) != DN_OK) {
            return dn_fail(err, out->code, "%s", out->error.message);
        }
        at += part;
        note_memory(p);
        if (p->stop_at_half != NULL && at > p->length / 2) {
            atomic_store(p->stop_at_half, true);
        }
    }
    return DN_OK;
}

static enum dn_code pattern_build(void *state, struct dn_source *in, void **ret_built, struct dn_error *err)
{
    struct pattern *p = state;
    uint64_t word;
    p->read = 0;
    while (p->read < p->length) {
        size_t part = p->length - p->read < 8 ? (size_t)(p->length - p->read) : 8;
        if (dn_source_read(in, &word, part) != DN_OK) {
            return dn_fail(err, in->code, "%s", in->error.message);
        }
        uint64_t expected = word_at(p, p->read);
        if (memcmp(&word, &expected, part) != 0) {
            return dn_fail(err, DN_INTERNAL, "wrong bytes at %llu", (unsigned long long)p->read);
        }
        p->read += part;
        if (p->read % 65536 == 0) {
            note_memory(p);
        }
    }
    if (dn_source_end(in) != DN_OK) {
        return dn_fail(err, in->code, "%s", in->error.message);
    }
    *ret_built = p;
    return DN_OK;
}

static struct dn_fsm fsm_of(struct pattern *p)
{
    return (struct dn_fsm){.state = p, .snapshot_write = pattern_write, .restore_build = pattern_build};
}

struct rig {
    char dir[64];
    struct snapstore store;
};

static void rig_open(struct rig *rig)
{
    struct dn_error err;
    snprintf(rig->dir, sizeof rig->dir, "/tmp/dn-snapstore-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    if (snapstore_open(&rig->store, rig->dir, 7, &err) != DN_OK) {
        fail_msg("%s", err.message);
    }
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void rig_close(struct rig *rig)
{
    nftw(rig->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct manifest *write_one(struct rig *rig, struct pattern *p, uint64_t index)
{
    struct snapstore_point point = {index, 3, 1000, 0xabc};
    struct dn_fsm fsm = fsm_of(p);
    struct manifest *manifest = NULL;
    struct dn_error err;
    if (snapstore_write(&rig->store, &point, &fsm, p, NULL, &manifest, &err) != DN_OK) {
        fail_msg("write: %s", err.message);
    }
    return manifest;
}

static enum dn_code build_one(struct rig *rig, struct pattern *p, const struct manifest *m,
                              struct dn_error *err)
{
    struct dn_fsm fsm = fsm_of(p);
    void *built = NULL;
    enum dn_code code = snapstore_build(&rig->store, m, &fsm, NULL, &built, err);
    assert_true(code == DN_OK ? built == p : built == NULL);
    return code;
}

static void flip(const char *path, uint64_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void chunks_lie_side_by_side(void **unused)
{
    struct manifest m = {.chunk_count = SNAP_CHUNKS_MAX, .total_bytes = chunk_offset(SNAP_CHUNKS_MAX)};
    uint64_t at = 0;
    (void)unused;
    assert_true(chunk_offset(SNAP_CHUNKS_MAX) == (uint64_t)SNAP_TIER_CHUNKS * 21 << 20);
    for (uint32_t i = 0; i < SNAP_CHUNKS_MAX; i++) {
        assert_true(chunk_offset(i) == at);
        assert_in_range(chunk_bytes(&m, i), SNAP_CHUNK_BYTES, SNAP_CHUNK_MAX);
        at += chunk_bytes(&m, i);
    }
    assert_true(at == m.total_bytes);
    m.total_bytes -= 5;
    assert_int_equal(chunk_bytes(&m, SNAP_CHUNKS_MAX - 1), SNAP_CHUNK_MAX - 5);
}

static void what_was_written_is_read(void **unused)
{
    static const uint64_t lengths[] = {0,
                                       1,
                                       SNAP_CHUNK_BYTES - 1,
                                       SNAP_CHUNK_BYTES,
                                       SNAP_CHUNK_BYTES + 1,
                                       3 * SNAP_CHUNK_BYTES,
                                       5 * SNAP_CHUNK_BYTES + 12345};
    struct rig rig;
    (void)unused;
    rig_open(&rig);
    for (unsigned i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct pattern p = {.length = lengths[i], .seed = i};
        struct manifest *m = write_one(&rig, &p, 10 + i), *back = NULL;
        struct dn_buffer bytes;
        struct dn_error err;
        assert_true(m->total_bytes == lengths[i]);
        assert_int_equal(m->chunk_count, (lengths[i] + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES);
        if (build_one(&rig, &p, m, &err) != DN_OK) {
            fail_msg("%s", err.message);
        }
        assert_true(p.read == lengths[i]);
        dn_buffer_init(&bytes, SNAP_MANIFEST_MAX);
        manifest_encode(m, &bytes);
        assert_int_equal(bytes.length % 8, 0);
        assert_int_equal(manifest_decode(7, bytes.bytes, bytes.length, &back, &err), DN_OK);
        assert_true(snap_name_equal(&m->name, &back->name) && back->total_bytes == m->total_bytes &&
                    back->time_ms == 1000 && back->state_hash == 0xabc);
        assert_memory_equal(back->hashes, m->hashes, m->chunk_count * SNAP_HASH_BYTES);
        manifest_unref(back);
        assert_int_equal(manifest_decode(8, bytes.bytes, bytes.length, &back, &err), DN_CORRUPT); /* group */
        dn_buffer_free(&bytes);
        manifest_unref(m);
    }
    struct snap_name names[3];
    size_t count = 0;
    struct dn_error err;
    assert_int_equal(snapstore_list(&rig.store, names, 3, &count, &err), DN_OK);
    assert_int_equal(count, sizeof lengths / sizeof lengths[0]);
    assert_true(names[0].index == 16 && names[1].index == 15 && names[2].index == 14);
    rig_close(&rig);
}

static void damaged_manifests_are_refused(void **unused)
{
    struct rig rig;
    struct pattern p = {.length = 3 * SNAP_CHUNK_BYTES + 99};
    struct dn_buffer bytes;
    struct dn_error err;
    (void)unused;
    rig_open(&rig);
    struct manifest *m = write_one(&rig, &p, 10), *back = NULL;
    dn_buffer_init(&bytes, SNAP_MANIFEST_MAX);
    manifest_encode(m, &bytes);
    for (size_t length = 0; length < bytes.length; length++) {
        uint8_t *exact = malloc(length + (length == 0));
        memcpy(exact, bytes.bytes, length);
        assert_int_equal(manifest_decode(7, exact, length, &back, &err), DN_CORRUPT);
        free(exact);
    }
    for (unsigned round = 0; round < 20000; round++) {
        uint8_t *copy = malloc(bytes.length);
        memcpy(copy, bytes.bytes, bytes.length);
        for (uint64_t n = 1 + rng() % 4; n > 0; n--) {
            copy[rng() % bytes.length] ^= (uint8_t)(1 + rng() % 255);
        }
        if (memcmp(copy, bytes.bytes, bytes.length) != 0) {
            assert_true(manifest_decode(7, copy, bytes.length, &back, &err) != DN_OK);
        }
        free(copy);
    }
    /* Counts and lengths that contradict each other, under a right digest: an enemy's, or a bug of ours. */
    unsigned refused = 0;
    for (unsigned round = 0; round < 5000; round++) {
        struct manifest forged = *m;
        struct dn_buffer out;
        forged.chunk_count = (uint32_t)(rng() % (m->chunk_count + 1));
        forged.total_bytes = rng() % 2 == 0 ? rng() % (6 * SNAP_CHUNK_BYTES) : rng();
        dn_buffer_init(&out, SNAP_MANIFEST_MAX);
        manifest_encode(&forged, &out);
        if (manifest_decode(7, out.bytes, out.length, &back, &err) == DN_OK) {
            for (uint32_t i = 0; i < back->chunk_count; i++) {
                assert_in_range(chunk_bytes(back, i), 1, SNAP_CHUNK_MAX);
            }
            manifest_unref(back);
        } else {
            refused++;
        }
        dn_buffer_free(&out);
    }
    assert_in_range(refused, 3000, 4999);
    dn_buffer_free(&bytes);
    manifest_unref(m);
    rig_close(&rig);
}

static void damage_is_found_and_named(void **unused)
{
    struct rig rig;
    struct pattern p = {.length = 4 * SNAP_CHUNK_BYTES + 777};
    struct dn_error err;
    char path[PATH_MAX];
    uint8_t *chunk = malloc(SNAP_CHUNK_BYTES);
    (void)unused;
    rig_open(&rig);
    struct manifest *m = write_one(&rig, &p, 10);
    snapstore_path(&rig.store, &m->name, path);
    for (unsigned round = 0; round < 30; round++) {
        uint64_t at = rng() % p.length;
        char named[32];
        flip(path, at);
        assert_int_equal(build_one(&rig, &p, m, &err), DN_CORRUPT);
        snprintf(named, sizeof named, "chunk %llu ", (unsigned long long)at / SNAP_CHUNK_BYTES);
        assert_non_null(strstr(err.message, path));
        assert_non_null(strstr(err.message, named));
        assert_true(p.read <= at / SNAP_CHUNK_BYTES * SNAP_CHUNK_BYTES); /* no byte of it was given out */
        assert_int_equal(snapstore_read(&rig.store, m, (uint32_t)(at / SNAP_CHUNK_BYTES), chunk, &err),
                         DN_CORRUPT);
        flip(path, at);
        assert_int_equal(snapstore_read(&rig.store, m, (uint32_t)(at / SNAP_CHUNK_BYTES), chunk, &err),
                         DN_OK);
    }
    assert_int_equal(truncate(path, (off_t)p.length - 1), 0);
    assert_int_equal(build_one(&rig, &p, m, &err), DN_CORRUPT);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(build_one(&rig, &p, m, &err), DN_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    manifest_unref(m);
    free(chunk);
    rig_close(&rig);
}

static void writing_can_be_stopped(void **unused)
{
    struct rig rig;
    atomic_bool stop = false;
    struct pattern p = {.length = 40 * SNAP_CHUNK_BYTES, .stop_at_half = &stop};
    struct snapstore_point point = {10, 3, 1000, 0};
    struct dn_fsm fsm = fsm_of(&p);
    struct manifest *m = NULL;
    struct dn_error err;
    struct snap_name name;
    size_t count = 9;
    (void)unused;
    rig_open(&rig);
    assert_int_equal(snapstore_write(&rig.store, &point, &fsm, &p, &stop, &m, &err), DN_CANCELLED);
    assert_null(m);
    assert_int_equal(snapstore_list(&rig.store, &name, 1, &count, &err), DN_OK);
    assert_int_equal(count, 0);
    assert_int_equal(rmdir(rig.store.dir), 0); /* nothing is left in it */
    rig_close(&rig);
}

static void what_is_kept(void **unused)
{
    struct rig rig;
    struct pattern p = {.length = 1000};
    struct manifest *m[6];
    struct snapfetch fetch;
    struct dn_error err;
    struct snap_name names[8];
    size_t count;
    char path[PATH_MAX];
    (void)unused;
    rig_open(&rig);
    for (unsigned i = 0; i < 6; i++) {
        m[i] = write_one(&rig, &p, 10 + i);
    }
    snprintf(path, sizeof path, "%.64s/snapshots/7/someone.else", rig.dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    /* An unfinished one of index 14. */
    snapstore_path(&rig.store, &m[4]->name, path);
    assert_int_equal(snapfetch_open(&fetch, &rig.store, m[4], NULL, &err), DN_OK);
    assert_int_equal(fetch.missing, 0);
    snapfetch_close(&fetch);
    /* 12 is in force, 10 is being sent: 15 is the newest above and stays, 11, 13, 14 go. */
    struct snap_name keep[2] = {m[2]->name, m[0]->name};
    assert_int_equal(snapstore_prune(&rig.store, keep, 2, 12, &err), DN_OK);
    assert_int_equal(snapstore_list(&rig.store, names, 8, &count, &err), DN_OK);
    assert_int_equal(count, 3);
    assert_true(names[0].index == 15 && names[1].index == 12 && names[2].index == 10);
    assert_int_equal(snapfetch_open(&fetch, &rig.store, m[4], NULL, &err), DN_OK);
    assert_int_equal(fetch.missing, 1); /* it was removed */
    snapfetch_close(&fetch);
    assert_int_equal(snapstore_prune(&rig.store, keep, 1, 99, &err), DN_OK);
    assert_int_equal(snapstore_list(&rig.store, names, 8, &count, &err), DN_OK);
    assert_int_equal(count, 1);
    for (unsigned i = 0; i < 6; i++) {
        manifest_unref(m[i]);
    }
    snprintf(path, sizeof path, "%.64s/snapshots/7/someone.else", rig.dir);
    assert_int_equal(access(path, F_OK), 0); /* not ours to remove */
    rig_close(&rig);
}

/* Chunks from one folder into another, out of order, damaged now and then, cut off and taken up again. */
static void a_fetch_is_taken_up_again(void **unused)
{
    struct rig from, to;
    struct pattern p = {.length = 9 * SNAP_CHUNK_BYTES + 4321, .seed = 5};
    struct dn_error err;
    uint8_t *chunk = malloc(SNAP_CHUNK_BYTES);
    char path[PATH_MAX];
    unsigned done = 0;
    (void)unused;
    rig_open(&from);
    rig_open(&to);
    struct manifest *m = write_one(&from, &p, 10);
    while (true) {
        struct snapfetch fetch;
        assert_int_equal(snapfetch_open(&fetch, &to.store, m, NULL, &err), DN_OK);
        assert_int_equal(fetch.missing, m->chunk_count - done);
        assert_int_equal(build_one(&to, &p, m, &err), DN_NOT_FOUND); /* not under its name yet */
        for (unsigned i = 0; i < 3 && fetch.missing > 0; i++) {
            uint32_t n;
            do {
                n = (uint32_t)(rng() % m->chunk_count);
            } while (snapfetch_has(&fetch, n));
            assert_int_equal(snapstore_read(&from.store, m, n, chunk, &err), DN_OK);
            uint32_t length = chunk_bytes(m, n), bad = (uint32_t)(rng() % length);
            chunk[bad] ^= 1;
            assert_int_equal(snapfetch_put(&fetch, n, chunk, length, &err), DN_CORRUPT);
            chunk[bad] ^= 1;
            assert_int_equal(snapfetch_put(&fetch, n, chunk, length - 1, &err), DN_CORRUPT);
            assert_int_equal(snapfetch_put(&fetch, m->chunk_count, chunk, length, &err), DN_CORRUPT);
            assert_int_equal(snapfetch_put(&fetch, n, chunk, length, &err), DN_OK);
            snapfetch_mark(&fetch, n);
            done++;
        }
        if (fetch.missing == 0) {
            assert_int_equal(snapfetch_finish(&fetch, &err), DN_OK);
            snapfetch_close(&fetch);
            break;
        }
        snapfetch_close(&fetch);
    }
    assert_int_equal(done, m->chunk_count);
    assert_int_equal(build_one(&to, &p, m, &err), DN_OK);
    /* It was whole, and then a chunk of it went bad: only that one is missing. */
    snapstore_path(&to.store, &m->name, path);
    flip(path, 5 * SNAP_CHUNK_BYTES + 17);
    struct snapfetch fetch;
    assert_int_equal(snapfetch_open(&fetch, &to.store, m, NULL, &err), DN_OK);
    assert_int_equal(fetch.missing, 1);
    assert_false(snapfetch_has(&fetch, 5));
    snapfetch_close(&fetch);
    manifest_unref(m);
    free(chunk);
    rig_close(&from);
    rig_close(&to);
}

#define LARGE_BYTES (96ull << 20)
#define MEMORY_BOUND (3u << 20)

static void memory_does_not_grow_with_the_state(void **unused)
{
    struct rig from, to;
    struct pattern p = {.length = LARGE_BYTES, .seed = 9};
    struct dn_error err;
    struct snapfetch fetch;
    (void)unused;
    rig_open(&from);
    rig_open(&to);
    size_t before = in_use();
    struct manifest *m = write_one(&from, &p, 10);
    assert_in_range(p.most_bytes, before, before + MEMORY_BOUND);
    p.most_bytes = 0;
    assert_int_equal(build_one(&from, &p, m, &err), DN_OK);
    assert_in_range(p.most_bytes, before, before + MEMORY_BOUND);
    uint8_t *chunk = malloc(SNAP_CHUNK_BYTES);
    p.most_bytes = 0;
    assert_int_equal(snapfetch_open(&fetch, &to.store, m, NULL, &err), DN_OK);
    for (uint32_t i = 0; i < m->chunk_count; i++) {
        assert_int_equal(snapstore_read(&from.store, m, i, chunk, &err), DN_OK);
        assert_int_equal(snapfetch_put(&fetch, i, chunk, chunk_bytes(m, i), &err), DN_OK);
        snapfetch_mark(&fetch, i);
        note_memory(&p);
    }
    assert_int_equal(snapfetch_finish(&fetch, &err), DN_OK);
    snapfetch_close(&fetch);
    assert_in_range(p.most_bytes, before, before + MEMORY_BOUND);
    free(chunk);
    manifest_unref(m);
    rig_close(&from);
    rig_close(&to);
}

/* A disk that is full is said to be full, and nothing half-written stays. */
static void a_full_disk_is_told(void **unused)
{
    struct rig rig;
    struct pattern p = {.length = 4 * SNAP_CHUNK_BYTES};
    struct snapstore_point point = {10, 3, 1000, 0};
    struct dn_fsm fsm = fsm_of(&p);
    struct manifest *m = NULL;
    struct dn_error err;
    char path[PATH_MAX];
    (void)unused;
    rig_open(&rig);
    snprintf(path, sizeof path, "%.64s/snapshots/7/writing.tmp", rig.dir);
    assert_int_equal(symlink("/dev/full", path), 0);
    assert_int_equal(snapstore_write(&rig.store, &point, &fsm, &p, NULL, &m, &err), DN_NO_SPACE);
    assert_non_null(strstr(err.message, path));
    assert_true(access(path, F_OK) != 0);
    assert_int_equal(rmdir(rig.store.dir), 0);
    assert_int_equal(snapstore_write(&rig.store, &point, &fsm, &p, NULL, &m, &err), DN_IO);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_lie_side_by_side),
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(damaged_manifests_are_refused),
        cmocka_unit_test(damage_is_found_and_named),
        cmocka_unit_test(writing_can_be_stopped),
        cmocka_unit_test(what_is_kept),
        cmocka_unit_test(a_fetch_is_taken_up_again),
        cmocka_unit_test(memory_does_not_grow_with_the_state),
        cmocka_unit_test(a_full_disk_is_told),
    };
    const char *seed = getenv("DN_SEED");
    rng_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    printf("# DN_SEED=%llu\n", (unsigned long long)rng_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
