/* What the real disks do when memory runs out, in user space or in the kernel: a history on each of them,
 * short of memory at each allocation in turn. All of it is written in the end. */
#include "tests/unit/journal/model.h"
#include "tests/unit/journal/no_memory.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "journal/disk_internal.h"
#include "journal/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <liburing.h>

/* The kernel has no memory for requests either. */
static int limited_io_uring_submit(struct io_uring *ring)
{
    return allocation_fails() ? -EAGAIN : io_uring_submit(ring);
}

#define malloc limited_malloc
#define calloc limited_calloc
#define realloc limited_realloc
#define posix_memalign limited_posix_memalign
#define strdup limited_strdup
#define io_uring_submit limited_io_uring_submit
/* NOLINTBEGIN(bugprone-suspicious-include) */
#include "base/buffer.c"
#include "journal/disk.c"
#include "journal/disk_pool.c"
#include "journal/disk_uring.c"
#include "journal/format.c"
#include "journal/journal.c"
#include "journal/recover.c"
#include "journal/space.c"
#include "journal/state.c"
/* NOLINTEND(bugprone-suspicious-include) */
#undef malloc
#undef calloc
#undef realloc
#undef posix_memalign
#undef strdup
#undef io_uring_submit

#define STEPS 50
#define ROUNDS_MAX 100000
#define ALLOCATIONS_MAX 5000

static void set_true(void *data)
{
    *(bool *)data = true;
}

static void tick(uv_timer_t *timer)
{
    (void)timer;
}

static void empty_folder(const char *dir)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
}

/* Opens a disk and a journal, writes, closes, all short of memory; then looks. True when it was reached. */
static bool real_history(const char *dir, const char *kind, long nth, long count, bool *ret_skipped)
{
    struct test_random random = {.state = 21};
    struct model *model = model_new();
    struct dn_disk *disk = NULL;
    struct dn_journal *journal = NULL;
    struct dn_error err = {0};
    static struct model_promise promises[STEPS];
    size_t promised = 0;
    bool closed = false;
    uv_loop_t loop;
    uv_timer_t timer;
    assert_int_equal(uv_loop_init(&loop), 0);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, tick, 1, 1);
    no_memory(nth, count);
    for (unsigned tries = 0; disk == NULL; tries++) {
        enum dn_code code = dn_disk_open(dir, &loop, kind, &disk, &err);
        if (code == DN_UNIMPLEMENTED && atomic_load(&memory_failures) == 0) {
            *ret_skipped = true;
            goto out;
        }
        assert_true(tries < 100 && (code == DN_OK || code == DN_NO_MEMORY || code == DN_UNIMPLEMENTED));
    }
    struct dn_journal_options options = {
        .disk = disk, .name = dir, .loop = &loop, .segment_bytes = MODEL_SEGMENT};
    for (unsigned tries = 0; journal == NULL; tries++) {
        enum dn_code code = dn_journal_open(&options, &journal, &err);
        assert_true(tries < 100 && (code == DN_OK || code == DN_NO_MEMORY));
    }
    dn_journal_forget(journal);
    for (unsigned i = 0; i < STEPS; i++) {
        model_step(model, journal, &random);
        model_ask(model, journal, &promises[i], &promised);
        uv_run(&loop, UV_RUN_NOWAIT);
        if (dn_journal_fault(journal) != NULL) { /* not a second for each */
            assert_int_equal(dn_journal_fault(journal)->code, DN_NO_MEMORY);
            journal->retry_at_us = 0;
        }
    }
    for (unsigned rounds = 0; promised < model->count - 1; rounds++) {
        assert_true(rounds < ROUNDS_MAX);
        uv_run(&loop, UV_RUN_ONCE);
        journal->retry_at_us = 0;
    }
    dn_journal_close(journal, set_true, &closed);
    while (!closed)
        uv_run(&loop, UV_RUN_ONCE);
    dn_journal_destroy(journal);
out:
    if (disk != NULL)
        disk->ops->destroy(disk);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    bool reached = atomic_load(&memory_failures) > 0;
    enough_memory();
    if (disk != NULL) {
        assert_int_equal(dn_disk_open(dir, NULL, NULL, &disk, &err), DN_OK);
        options = (struct dn_journal_options){.disk = disk, .name = dir, .read_only = true};
        assert_int_equal(dn_journal_open(&options, &journal, &err), DN_OK);
        assert_int_equal(model_found(model, journal), (long)model->count - 1);
        dn_journal_destroy(journal);
        disk->ops->destroy(disk);
    }
    model_free(model);
    empty_folder(dir);
    return reached;
}

static void real_disks_without_memory(void **state)
{
    static const char *const kinds[] = {"io_uring", "pool"};
    char dir[] = "/tmp/dunlin_journal.XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < 2; i++)
        for (long count = 1; count <= 6; count += 5) {
            bool skipped = false;
            long n = 1;
            while (real_history(dir, kinds[i], n, count, &skipped))
                assert_true(++n < ALLOCATIONS_MAX);
            print_message("# %s: %s, %ld allocations, %ld fail at each\n", kinds[i],
                          skipped ? "skipped" : "done", n - 1, count);
        }
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_disks_without_memory)};
    dn_log_set_level((enum dn_log_level)(DN_LOG_ERROR + 1));
    return cmocka_run_group_tests_name("journal.disk_out_of_memory", tests, NULL, NULL);
}
