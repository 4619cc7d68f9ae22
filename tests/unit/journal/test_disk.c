/* The journal on real disks: written, closed, read again; killed at any point; and damaged in every way that
 * files can be. A torn end is cut and logged; damage that had been acknowledged is refused, with the file and
 * the place; nothing is ever found that was not written.
 *
 *   DUNLIN_REQUIRE=io_uring   a failure where io_uring is blocked, not a skipped half */
#include "tests/unit/journal/model.h"

#include "base/log.h"
#include "journal/format.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SPARSE 8 /* these make each look some ten times slower */
#else
#define SPARSE 1
#endif
#define SECTOR 512
#define LIVES 12
#define CHILD_OK 42
#define FILES_MAX 32

static const char *const kinds[] = {"io_uring", "pool"};

/* ---- folders ------------------------------------------------------------------------------------------ */

static void folder_make(char dir[40])
{
    snprintf(dir, 40, "/tmp/dunlin_journal.XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static void folder_remove(const char *dir)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- a node's life on a disk --------------------------------------------------------------------------- */

struct life {
    uv_loop_t loop;
    struct dn_disk *disk;
    struct dn_journal *journal;
};

/* False: that kind is not to be had here. */
static bool life_begin(struct life *life, const char *dir, const char *kind)
{
    struct dn_error err = {0};
    if (uv_loop_init(&life->loop) != 0)
        return false;
    if (dn_disk_open(dir, &life->loop, kind, &life->disk, &err) != DN_OK) {
        uv_run(&life->loop, UV_RUN_DEFAULT);
        uv_loop_close(&life->loop);
        return false;
    }
    struct dn_journal_options options = {
        .disk = life->disk, .name = dir, .loop = &life->loop, .segment_bytes = MODEL_SEGMENT};
    if (dn_journal_open(&options, &life->journal, &err) != DN_OK)
        fail_msg("%s", err.message);
    return true;
}

static void set_true(void *data)
{
    *(bool *)data = true;
}

static void life_end(struct life *life)
{
    bool closed = false;
    dn_journal_close(life->journal, set_true, &closed);
    while (!closed)
        uv_run(&life->loop, UV_RUN_ONCE);
    dn_journal_destroy(life->journal);
    life->disk->ops->destroy(life->disk);
    uv_run(&life->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&life->loop), 0);
}

static void life_sync(struct life *life)
{
    while (dn_journal_durable(life->journal) < dn_journal_appended(life->journal))
        uv_run(&life->loop, UV_RUN_ONCE);
}

/* Looks without changing anything: the state found, or -1 and why not. */
static long look(const struct model *model, const char *dir, struct dn_error *err, enum dn_code *ret_code)
{
    struct dn_disk *disk;
    struct dn_journal *journal;
    long found = -1;
    assert_int_equal(dn_disk_open(dir, NULL, NULL, &disk, err), DN_OK);
    struct dn_journal_options options = {.disk = disk, .name = dir, .read_only = true};
    *ret_code = dn_journal_open(&options, &journal, err);
    if (*ret_code == DN_OK) {
        found = model_found(model, journal);
        if (found < 0)
            fail_msg("what was found in '%s' never was", dir);
        dn_journal_destroy(journal);
    }
    disk->ops->destroy(disk);
    return found;
}

static bool skipped(const char *kind)
{
    const char *required = getenv("DUNLIN_REQUIRE");
    if (required != NULL && strstr(required, kind) != NULL)
        fail_msg("%s is required", kind);
    print_message("# skipped: no %s here\n", kind);
    return true;
}

/* ---- killed ------------------------------------------------------------------------------------------- */

/* In a process of its own: writes, and is gone in the middle of it. */
static int doomed(const char *dir, const char *kind, struct model *model, size_t *promised, unsigned steps,
                  uint64_t seed)
{
    struct test_random random = {.state = seed};
    static struct model_promise promises[256];
    struct life life;
    if (!life_begin(&life, dir, kind))
        return 1;
    if (!model_same(model, model_now(model), life.journal))
        return 2;
    dn_journal_forget(life.journal);
    for (unsigned i = 0; i < steps; i++) {
        model_step(model, life.journal, &random);
        model_ask(model, life.journal, &promises[i], promised);
        for (uint64_t turns = model->salt % 4; turns > 0; turns--)
            uv_run(&life.loop, UV_RUN_NOWAIT);
        if (model->salt % 5 == 0)
            life_sync(&life);
    }
    return CHILD_OK;
}

static void killed_at_any_point(void **state)
{
    struct test_random random = test_random_start("killed");
    size_t *promised =
        mmap(NULL, sizeof *promised, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    (void)state;
    assert_ptr_not_equal(promised, MAP_FAILED);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct model *model = model_new();
        size_t lost = 0;
        char dir[40];
        folder_make(dir);
        for (unsigned life = 0; life < LIVES; life++) {
            unsigned steps = 10 + (unsigned)test_random_below(&random, 60);
            uint64_t seed = test_random_next(&random);
            struct dn_error err = {0};
            enum dn_code code;
            int status;
            *promised = model->count - 1;
            pid_t pid = fork();
            assert_true(pid >= 0);
            if (pid == 0)
                _exit(doomed(dir, kinds[k], model, promised, steps, seed));
            assert_int_equal(waitpid(pid, &status, 0), pid);
            if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && life == 0 && skipped(kinds[k]))
                break;
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == CHILD_OK);
            struct test_random again = {.state = seed};
            for (unsigned i = 0; i < steps; i++)
                model_step(model, NULL, &again);
            long found = look(model, dir, &err, &code);
            if (code != DN_OK)
                fail_msg("%s", err.message);
            assert_true(found >= (long)*promised);
            lost += model->count - 1 - (size_t)found;
            model_cut(model, (size_t)found);
            if (model->count > MODEL_STATES_MAX / 2) {
                struct model_state now = *model_now(model);
                model_cut(model, 0);
                *model->states[0] = now;
            }
        }
        print_message("# %s: %zu states were not durable yet\n", kinds[k], lost);
        model_free(model);
        folder_remove(dir);
    }
    munmap(promised, sizeof *promised);
}

/* ---- closed ------------------------------------------------------------------------------------------- */

static void written_closed_and_read_again(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct test_random random = {.state = k + 1};
        struct model *model = model_new();
        struct life life;
        char dir[40];
        folder_make(dir);
        for (unsigned n = 0; n < 4; n++) {
            if (!life_begin(&life, dir, kinds[k])) {
                skipped(kinds[k]);
                break;
            }
            assert_true(model_same(model, model_now(model), life.journal));
            dn_journal_forget(life.journal);
            for (unsigned i = 0; i < 80; i++) {
                model_step(model, life.journal, &random);
                if (i % 3 == 0)
                    life_sync(&life);
                else
                    uv_run(&life.loop, UV_RUN_NOWAIT);
                assert_null(dn_journal_fault(life.journal));
            }
            life_end(&life);
        }
        model_free(model);
        folder_remove(dir);
    }
}

/* ---- damaged ------------------------------------------------------------------------------------------- */

struct file {
    char name[DN_DISK_NAME_MAX];
    uint8_t *bytes;
    size_t length, end; /* end: behind its last record */
};

struct place {
    unsigned file;
    uint64_t offset, end, lsn, durable_lsn;
};

/* A journal of some segments, each step of it durable before the next. */
struct damaged {
    char dir[40];
    struct model *model;
    struct file files[FILES_MAX];
    unsigned count; /* that hold records; the last one is in use */
    struct place places[4096];
    size_t place_count;
    uint64_t last_lsn; /* where the last batch begins */
    long promised;     /* the state before it */
    unsigned refused, cut, whole;
};

static void write_at(const struct damaged *d, unsigned file, size_t offset, const uint8_t *bytes,
                     size_t length)
{
    char path[120];
    snprintf(path, sizeof path, "%s/%s", d->dir, d->files[file].name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, length, (off_t)offset), (ssize_t)length);
    close(fd);
}

static void set_length(const struct damaged *d, unsigned file, size_t length)
{
    char path[120];
    snprintf(path, sizeof path, "%s/%s", d->dir, d->files[file].name);
    assert_int_equal(truncate(path, (off_t)length), 0);
}

/* Gives it back its length and its bytes from `offset` on. */
static void restore(const struct damaged *d, unsigned file, size_t offset)
{
    const struct file *f = &d->files[file];
    set_length(d, file, f->length);
    write_at(d, file, offset, f->bytes + offset, f->length - offset);
}

static void rename_file(const struct damaged *d, const char *from, const char *to)
{
    char a[120], b[120];
    snprintf(a, sizeof a, "%s/%s", d->dir, from);
    snprintf(b, sizeof b, "%s/%s", d->dir, to);
    assert_int_equal(rename(a, b), 0);
}

static void load(struct file *file, const char *dir)
{
    char path[120];
    struct stat about = {0};
    snprintf(path, sizeof path, "%s/%s", dir, file->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &about) == 0);
    file->length = (size_t)about.st_size;
    file->bytes = malloc(file->length);
    assert_int_equal(read(fd, file->bytes, file->length), about.st_size);
    close(fd);
}

static void note_record(void *data, const struct dn_journal_record *record)
{
    struct damaged *d = data;
    if (d->count == 0 || strcmp(d->files[d->count - 1].name, record->segment) != 0) {
        assert_true(d->count < FILES_MAX);
        snprintf(d->files[d->count].name, sizeof d->files[0].name, "%s", record->segment);
        load(&d->files[d->count], d->dir);
        d->count++;
    }
    struct file *file = &d->files[d->count - 1];
    file->end = record->offset + record_size(record->length);
    assert_true(d->place_count < sizeof d->places / sizeof *d->places);
    d->last_lsn = get_u64(file->bytes + record->offset + 32);
    d->places[d->place_count++] =
        (struct place){d->count - 1, record->offset, file->end, record->lsn, d->last_lsn};
}

/* Several segments, and several batches in the last of them. */
static struct damaged *damaged_begin(uint64_t seed)
{
    struct damaged *d = calloc(1, sizeof *d);
    struct test_random random = {.state = seed};
    struct dn_disk *disk;
    struct dn_error err;
    enum dn_code code;
    struct life life;
    assert_non_null(d);
    folder_make(d->dir);
    d->model = model_new();
    d->model->entry_max = 600;
    d->model->no_long = d->model->hold_first = true;
    assert_true(life_begin(&life, d->dir, "pool"));
    dn_journal_forget(life.journal);
    while (d->model->count < 750) {
        uint64_t before = dn_journal_appended(life.journal);
        long at = (long)d->model->count - 1;
        model_step(d->model, life.journal, &random);
        if (dn_journal_appended(life.journal) > before)
            d->promised = at;
        life_sync(&life);
    }
    life_end(&life);
    assert_int_equal(dn_disk_open(d->dir, NULL, NULL, &disk, &err), DN_OK);
    assert_int_equal(dn_journal_walk(disk, d->dir, note_record, d, &err), DN_OK);
    disk->ops->destroy(disk);
    assert_int_equal(look(d->model, d->dir, &err, &code), (long)d->model->count - 1);
    assert_true(d->count >= 3);
    return d;
}

static void damaged_end(struct damaged *d)
{
    print_message("# %u refused, %u cut, %u whole\n", d->refused, d->cut, d->whole);
    for (unsigned i = 0; i < d->count; i++)
        free(d->files[i].bytes);
    model_free(d->model);
    folder_remove(d->dir);
    free(d);
}

/* What damage at a place must lead to; the worse of two is the greater. */
enum verdict {
    WHOLE,  /* everything is found */
    TAIL,   /* the last write: found or cut, as it cannot be told from a torn one */
    LOST,   /* every later write too: nothing is left that tells */
    REFUSED /* it had been acknowledged */
};

static const struct place *record_at(const struct damaged *d, unsigned file, uint64_t offset)
{
    for (size_t i = 0; i < d->place_count; i++)
        if (d->places[i].file == file && d->places[i].offset <= offset && offset < d->places[i].end)
            return &d->places[i];
    return NULL;
}

static enum verdict verdict_at(const struct damaged *d, unsigned file, uint64_t offset)
{
    const struct place *record = record_at(d, file, offset);
    return record == NULL ? WHOLE : record->lsn >= d->last_lsn ? TAIL : REFUSED;
}

/* name and offset: what a refusal must tell; NULL and 0: anything. */
static void judge(struct damaged *d, enum verdict verdict, const char *name, uint64_t offset,
                  const char *what)
{
    struct dn_error err = {0};
    enum dn_code code;
    char place[64];
    long found = look(d->model, d->dir, &err, &code), newest = (long)d->model->count - 1;
    d->refused += code != DN_OK;
    d->whole += found == newest;
    d->cut += found >= 0 && found < newest;
    bool right = verdict == REFUSED ? code == DN_CORRUPT
                 : verdict == WHOLE ? found == newest
                 : verdict == LOST  ? found >= 0
                                    : found >= d->promised || code == DN_CORRUPT;
    if (!right)
        fail_msg("%s in %s at %llu: %s, state %ld of %ld: %s", what, name == NULL ? "?" : name,
                 (unsigned long long)offset, dn_code_text(code), found, newest, err.message);
    if (code != DN_OK && name != NULL) {
        snprintf(place, sizeof place, "offset %llu:", (unsigned long long)offset);
        if (strstr(err.message, name) == NULL || strstr(err.message, "offset ") == NULL ||
            (offset > 0 && strstr(err.message, place) == NULL))
            fail_msg("%s: the place is not in: %s", what, err.message);
    }
}

static void flip(struct damaged *d, unsigned file, uint64_t offset, uint8_t mask)
{
    const struct place *record = record_at(d, file, offset);
    uint8_t byte = (uint8_t)(d->files[file].bytes[offset] ^ mask);
    write_at(d, file, offset, &byte, 1);
    judge(d, verdict_at(d, file, offset), d->files[file].name, record == NULL ? 0 : record->offset, "a flip");
    write_at(d, file, offset, &d->files[file].bytes[offset], 1);
}

static void flipped_bytes(void **state)
{
    struct damaged *d = damaged_begin(11);
    struct test_random random = test_random_start("flips");
    (void)state;
    for (unsigned i = 0; i < d->count; i++) {
        bool last = i + 1 == d->count;
        for (uint64_t at = 0; at < HEADER_BYTES; at++)
            flip(d, i, at, (uint8_t)(1u << test_random_below(&random, 8)));
        for (uint64_t at = HEADER_BYTES; at < d->files[i].length;) {
            unsigned mask = test_random_below(&random, 2) == 0 ? 0xff : 1u << (at % 8);
            flip(d, i, at, (uint8_t)mask);
            bool dense = last && at >= DN_DISK_ALIGN && at < d->files[i].end;
            at += dense ? 1 + test_random_below(&random, 5 * SPARSE)
                        : 1 + test_random_below(&random, 200 * SPARSE);
        }
    }
    for (size_t k = d->place_count; k-- > 0 && d->places[k].lsn >= d->last_lsn;) /* each byte of the last */
        for (uint64_t at = d->places[k].offset; at < d->files[d->places[k].file].end; at += SPARSE)
            flip(d, d->places[k].file, at, 0xff);
    assert_true(d->refused > 4000 / SPARSE && d->cut > 20 && d->whole > 200);
    damaged_end(d);
}

static bool touched(const struct damaged *d, const struct place *record, const size_t sectors[2])
{
    const uint8_t *bytes = d->files[record->file].bytes;
    for (unsigned k = 0; k < 2; k++)
        for (size_t i = 0; i < SECTOR; i++)
            if (sectors[k] * SECTOR + i >= record->offset && sectors[k] * SECTOR + i < record->end &&
                bytes[sectors[0] * SECTOR + i] != bytes[sectors[1] * SECTOR + i])
                return true;
    return false;
}

static enum verdict verdict_of_swap(const struct damaged *d, unsigned file, const size_t sectors[2])
{
    const struct place *lowest = NULL;
    enum verdict verdict = WHOLE;
    for (size_t i = 0; i < d->place_count; i++) {
        const struct place *record = &d->places[i];
        if (record->file != file)
            continue;
        if (touched(d, record, sectors)) {
            lowest = lowest == NULL ? record : lowest;
            verdict = lowest->lsn >= d->last_lsn ? TAIL : file + 1 < d->count ? REFUSED : LOST;
        } else if (lowest != NULL && record->durable_lsn > lowest->lsn) {
            return REFUSED;
        }
    }
    return verdict;
}

static void swap(struct damaged *d, unsigned file, size_t a, size_t b)
{
    const uint8_t *bytes = d->files[file].bytes;
    enum verdict verdict = verdict_of_swap(d, file, (size_t[]){a, b});
    write_at(d, file, a * SECTOR, bytes + b * SECTOR, SECTOR);
    write_at(d, file, b * SECTOR, bytes + a * SECTOR, SECTOR);
    judge(d, verdict, d->files[file].name, 0, "a swap");
    write_at(d, file, a * SECTOR, bytes + a * SECTOR, SECTOR);
    write_at(d, file, b * SECTOR, bytes + b * SECTOR, SECTOR);
}

static void swapped_sectors(void **state)
{
    struct damaged *d = damaged_begin(12);
    struct test_random random = test_random_start("swaps");
    (void)state;
    for (unsigned i = 0; i < d->count; i++) {
        size_t used = (d->files[i].end + SECTOR - 1) / SECTOR, first = DN_DISK_ALIGN / SECTOR;
        size_t some = used + 2 < d->files[i].length / SECTOR ? used + 2 : d->files[i].length / SECTOR;
        for (size_t b = 1; b < some; b++) /* the header goes astray, at times with the first record */
            swap(d, i, 0, b);
        for (unsigned n = 0; n < 400 / SPARSE; n++) {
            size_t a = first + test_random_below(&random, used - first), b;
            do
                b = first + test_random_below(&random, some - first);
            while (a == b);
            swap(d, i, a, b);
        }
    }
    assert_true(d->refused > 1000 / SPARSE);
    damaged_end(d);
}

static void cut_files(void **state)
{
    struct damaged *d = damaged_begin(13);
    struct dn_error err = {0};
    enum dn_code code;
    (void)state;
    for (unsigned i = 0; i < d->count; i++) {
        const struct file *file = &d->files[i];
        bool last = i + 1 == d->count;
        for (size_t length = SECTOR; length < file->length; length += SECTOR) {
            set_length(d, i, length);
            judge(d, last || length < file->end ? REFUSED : WHOLE, file->name, 0, "a cut");
            set_length(d, i, file->length);
            write_at(d, i, length, file->bytes + length, SECTOR);
            if (length % (8 * SECTOR) == 0)
                restore(d, i, 0);
        }
        restore(d, i, 0);
        for (size_t length = 0; length < 100; length += 33) { /* no header: as if it were not there */
            set_length(d, i, length);
            long found = look(d->model, d->dir, &err, &code);
            assert_true(last || code == DN_CORRUPT);
            assert_true(code == DN_CORRUPT || found < (long)d->model->count - 1);
            restore(d, i, 0);
        }
    }
    judge(d, WHOLE, NULL, 0, "nothing");
    damaged_end(d);
}

static void files_gone_and_renamed(void **state)
{
    struct damaged *d = damaged_begin(14);
    struct dn_error err = {0};
    enum dn_code code;
    (void)state;
    for (unsigned i = 0; i < d->count; i++) {
        static const char *const names[] = {"away", "0000000000001000.seg", "0000000000000000.seg"};
        for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
            rename_file(d, d->files[i].name, names[n]);
            long found = look(d->model, d->dir, &err, &code);
            if (i + 1 < d->count) /* nothing tells that the newest one is missing */
                assert_int_equal(code, DN_CORRUPT);
            else
                assert_true(code == DN_CORRUPT || found < (long)d->model->count - 1);
            rename_file(d, names[n], d->files[i].name);
        }
        if (i + 1 < d->count) { /* two take each other's names */
            rename_file(d, d->files[i].name, "x");
            rename_file(d, d->files[i + 1].name, d->files[i].name);
            rename_file(d, "x", d->files[i + 1].name);
            judge(d, REFUSED, NULL, 0, "two names");
            rename_file(d, d->files[i].name, "x");
            rename_file(d, d->files[i + 1].name, d->files[i].name);
            rename_file(d, "x", d->files[i + 1].name);
        }
    }
    judge(d, WHOLE, NULL, 0, "nothing");
    damaged_end(d);
}

static void add_file(const struct damaged *d, const char *name, const void *bytes, size_t length)
{
    char path[120];
    snprintf(path, sizeof path, "%s/%s", d->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), (ssize_t)length);
    close(fd);
}

static void files_of_others(void **state)
{
    struct damaged *d = damaged_begin(15);
    struct dn_error err = {0};
    enum dn_code code;
    static uint8_t bytes[8192];
    const struct file *last = &d->files[d->count - 1];
    (void)state;
    add_file(d, "README", "read me", 7);
    add_file(d, "0000000000000001.seg.bak", bytes, sizeof bytes);
    add_file(d, "00000000000000zz.seg", bytes, sizeof bytes);
    add_file(d, "00000000000000AB.seg", bytes, sizeof bytes);
    add_file(d, "0x0000000000000b.seg", bytes, sizeof bytes);
    add_file(d, "+00000000000000c.seg", bytes, sizeof bytes);
    add_file(d, "0000000000000fff.seg", bytes, 0);
    add_file(d, "0000000000001000.seg", "garbage", 7);
    add_file(d, "0000000000001001.seg", bytes, sizeof bytes);
    add_file(d, "0000000000001002.seg", last->bytes, last->length); /* a copy under another name */
    judge(d, WHOLE, NULL, 0, "others' files");
    add_file(d, "ffffffffffffffff.seg", bytes, sizeof bytes); /* the next one would be number 0 */
    assert_int_equal(look(d->model, d->dir, &err, &code), -1);
    assert_int_equal(code, DN_CORRUPT);
    assert_non_null(strstr(err.message, "ffffffffffffffff.seg"));
    damaged_end(d);
}

/* The end is torn: it is cut, logged with its place, and the journal goes on behind it. */
static void a_torn_end_is_cut_and_logged(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 4; k++) {
        struct damaged *d = damaged_begin(20 + k);
        unsigned file = d->count - 1;
        const struct place *record = &d->places[d->place_count - 1];
        struct test_random random = {.state = k};
        char log[600] = "", want[200];
        struct life life;
        uint8_t byte = (uint8_t)(d->files[file].bytes[record->offset + RECORD_BYTES] ^ 1);
        write_at(d, file, record->offset + RECORD_BYTES, &byte, 1);
        FILE *captured = tmpfile();
        int was = dup(STDERR_FILENO);
        assert_true(captured != NULL && was >= 0);
        dup2(fileno(captured), STDERR_FILENO);
        dn_log_set_level(DN_LOG_WARN);
        bool begun = life_begin(&life, d->dir, kinds[k % 2]);
        dn_log_set_level((enum dn_log_level)(DN_LOG_ERROR + 1));
        dup2(was, STDERR_FILENO);
        close(was);
        rewind(captured);
        size_t length = fread(log, 1, sizeof log - 1, captured);
        log[length] = 0;
        fclose(captured);
        if (!begun) {
            skipped(kinds[k % 2]);
            damaged_end(d);
            continue;
        }
        snprintf(want, sizeof want, "%s/%s': the last write was torn, cut at offset %llu", d->dir,
                 d->files[file].name, (unsigned long long)record->offset);
        if (strstr(log, want) == NULL)
            fail_msg("not in the log: %s; but: %s", want, log);
        long found = model_found(d->model, life.journal);
        assert_true(found >= d->promised && found < (long)d->model->count - 1);
        model_cut(d->model, (size_t)found);
        dn_journal_forget(life.journal);
        for (unsigned i = 0; i < 30; i++) {
            model_step(d->model, life.journal, &random);
            life_sync(&life);
        }
        life_end(&life);
        judge(d, WHOLE, NULL, 0, "nothing");
        damaged_end(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_point), /* first: it forks */
        cmocka_unit_test(written_closed_and_read_again),
        cmocka_unit_test(flipped_bytes),
        cmocka_unit_test(swapped_sectors),
        cmocka_unit_test(cut_files),
        cmocka_unit_test(files_gone_and_renamed),
        cmocka_unit_test(files_of_others),
        cmocka_unit_test(a_torn_end_is_cut_and_logged),
    };
    dn_log_set_level((enum dn_log_level)(DN_LOG_ERROR + 1));
    return cmocka_run_group_tests_name("journal.disk", tests, NULL, NULL);
}
