/* What the tests of dead letters share: real shards behind a consensus of one thread, a source whose messages
 * are made up on demand and whose failures are ordered, and a flush that may fail.
 *
 * The rig checks by itself, at each proposal, that every letter it covers stands in a flushed part of a file
 * (unless check_files is off): "never propose before it is durable". */
#ifndef DN_TEST_INGEST_DEAD_RIG_H
#define DN_TEST_INGEST_DEAD_RIG_H

#include "tests/unit/base/cmocka_all.h"

#include "base/clock.h"
#include "base/epoch.h"
#include "ingest/deadletter.h"
#include "ingest/deadletter_file.h"
#include "ingest/reader.h"
#include "session/record.h"
#include "session/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHARDS 3
#define WAIT_MS 60000 /* nothing that is waited for takes as long */
#define RULES_MAX 8
#define FILES_MAX 64
#define SEEN_MAX 40000 /* letters of a shard in a test */

/* ---- the disk: every flush of a regular file is noted, and may fail ---------------------------------- */

static atomic_int flushes_fail; /* so many of the next ones */
static atomic_int flushes;
static pthread_mutex_t disk_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    dev_t dev;
    ino_t inode;
    off_t size;
} flushed[FILES_MAX];
static size_t flushed_count;

static inline off_t flushed_size(const struct stat *info)
{
    off_t size = 0;
    pthread_mutex_lock(&disk_mutex);
    for (size_t i = 0; i < flushed_count; i++) {
        if (flushed[i].dev == info->st_dev && flushed[i].inode == info->st_ino)
            size = flushed[i].size;
    }
    pthread_mutex_unlock(&disk_mutex);
    return size;
}

static inline void note_flush(const struct stat *info)
{
    size_t i = 0;
    pthread_mutex_lock(&disk_mutex);
    while (i < flushed_count && (flushed[i].dev != info->st_dev || flushed[i].inode != info->st_ino))
        i++;
    if (i == flushed_count && i < FILES_MAX)
        flushed_count++;
    if (i < FILES_MAX) {
        flushed[i].dev = info->st_dev;
        flushed[i].inode = info->st_ino;
        flushed[i].size = info->st_size;
    }
    pthread_mutex_unlock(&disk_mutex);
}

/* In the place of the C library's, for this program. */
int fdatasync(int fd)
{
    struct stat info;
    if (atomic_load(&flushes_fail) > 0) {
        atomic_fetch_sub(&flushes_fail, 1);
        errno = EIO;
        return -1;
    }
    int rv = (int)syscall(SYS_fdatasync, fd);
    atomic_fetch_add(&flushes, 1);
    if (rv == 0 && fstat(fd, &info) == 0)
        note_flush(&info);
    return rv;
}

static inline void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* ---- the source -------------------------------------------------------------------------------------- */

static pthread_mutex_t source_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char stream[DN_SOURCE_MAX + 1]; /* a beginning of the stream's name */
    int partition;                  /* -1: any */
    enum dn_code code;
} rules[RULES_MAX]; /* the first that fits */
static size_t rule_count;
static atomic_int fetches, fetchers;
static atomic_bool fetch_hangs;
static struct {
    uint32_t partition;
    uint64_t at_us;
} fetched[64]; /* the first ones, in order; under source_mutex */

static inline void fetch_says(const char *stream, int partition, enum dn_code code)
{
    pthread_mutex_lock(&source_mutex);
    assert_true(rule_count < RULES_MAX);
    snprintf(rules[rule_count].stream, sizeof rules[0].stream, "%s", stream);
    rules[rule_count].partition = partition;
    rules[rule_count++].code = code;
    pthread_mutex_unlock(&source_mutex);
}

static inline void fetch_is_well(void)
{
    pthread_mutex_lock(&source_mutex);
    rule_count = 0;
    pthread_mutex_unlock(&source_mutex);
}

static inline int text_of(const char *stream, uint32_t partition, int64_t offset, char *ret, size_t size)
{
    return snprintf(ret, size, "%s|%" PRIu32 "|%" PRId64 "|\"\n\xff", stream, partition, offset);
}

struct fake_fetcher {
    char bytes[256], key[32];
};

static inline enum dn_code fake_fetcher_open(const struct dn_source_config *config,
                                             const struct dn_source_host *host, void **ret,
                                             struct dn_error *err)
{
    (void)config, (void)err;
    assert_non_null(host->data_dir);
    *ret = calloc(1, sizeof(struct fake_fetcher));
    assert_non_null(*ret);
    atomic_fetch_add(&fetchers, 1);
    return DN_OK;
}

static inline void fake_fetcher_close(void *fetcher)
{
    free(fetcher);
    atomic_fetch_sub(&fetchers, 1);
}

static inline enum dn_code fake_fetch(void *data, const char *stream, uint32_t partition, int64_t offset,
                                      unsigned timeout_ms, struct dn_message *ret, struct dn_error *err)
{
    struct fake_fetcher *fetcher = data;
    enum dn_code code = DN_OK;

    pthread_mutex_lock(&source_mutex);
    int call = atomic_fetch_add(&fetches, 1);
    if (call < 64)
        fetched[call].partition = partition;
    if (call < 64)
        fetched[call].at_us = dn_monotonic_us();
    pthread_mutex_unlock(&source_mutex);
    assert_true(timeout_ms > 0);
    while (atomic_load(&fetch_hangs))
        nap();
    pthread_mutex_lock(&source_mutex);
    for (size_t i = rule_count; i-- > 0;) {
        if (strncmp(stream, rules[i].stream, strlen(rules[i].stream)) == 0 &&
            (rules[i].partition == -1 || (uint32_t)rules[i].partition == partition))
            code = rules[i].code;
    }
    pthread_mutex_unlock(&source_mutex);
    if (code != DN_OK)
        return dn_fail(err, code, "the test wants it");
    int length = text_of(stream, partition, offset, fetcher->bytes, sizeof fetcher->bytes);
    snprintf(fetcher->key, sizeof fetcher->key, "key-%" PRId64, offset);
    *ret = (struct dn_message){
        .offset = offset,
        .next_offset = offset + 1,
        .time_ms = 1000 + offset,
        .key = offset % 2 == 0 ? NULL : (const uint8_t *)fetcher->key,
        .key_length = offset % 2 == 0 ? 0 : strlen(fetcher->key),
        .bytes = (const uint8_t *)fetcher->bytes,
        .length = (size_t)length,
    };
    return DN_OK;
}

static const struct dn_source_driver fake_driver = {
    .kind = "fake",
    .fetcher_open = fake_fetcher_open,
    .fetcher_close = fake_fetcher_close,
    .fetch = fake_fetch,
};

static const struct dn_source_driver *fake_driver_of(enum dn_source_kind kind)
{
    (void)kind;
    return &fake_driver;
}

/* ---- consensus and shards ---------------------------------------------------------------------------- */

enum answer {
    ANSWER_OK,
    ANSWER_LOST,    /* not applied, DN_UNAVAILABLE */
    ANSWER_UNKNOWN, /* applied, DN_DEADLINE */
    ANSWER_HELD,    /* not before the answers change */
    ANSWER_BUSY,    /* refused by propose itself */
};

struct shard {
    struct dn_shard *shard;
    bool led;
    int64_t next_offset[16][16]; /* of a stream and partition; by index of the stream's name */
    uint64_t index, proposals, highest;
};

struct rig {
    char folder[64]; /* all the test's files; the data directory is in it */
    char data_dir[80];
    char file[96]; /* of the source "a" and "b" */
    struct dn_source_config sources[4];
    struct dn_ingest_options options;
    struct dn_deadletters *letters;
    bool check_files;
    bool trusts_words;
    bool no_proposals; /* none may come any more */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader; /* used under the mutex */
    struct shard shards[SHARDS + 1];
    char streams[16][DN_SOURCE_MAX + 1];
    enum answer answer;
    uint32_t answer_group;                 /* for which; 0: for all */
    struct dn_proposal *queue[2 * SHARDS]; /* of two nodes */
    size_t queued;
    bool stopping;
    pthread_t consensus;
    struct dn_buffer result;
    const char *fault; /* what the rig found */
};

static inline void rig_apply(struct rig *rig, uint32_t group, const uint8_t *record, size_t length)
{
    struct shard *shard = &rig->shards[group];
    dn_buffer_clear(&rig->result);
    dn_shard_apply(shard->shard, ++shard->index, 0, 1700000000000, record, length, &rig->result);
    dn_shard_entry_done(shard->shard, shard->index, 1700000000000);
}

static inline void complete(struct rig *rig, struct dn_proposal *proposal, enum answer answer)
{
    struct dn_error err;
    uint8_t result[64];
    size_t length = 0;

    if (answer == ANSWER_OK || answer == ANSWER_UNKNOWN) {
        rig_apply(rig, proposal->group, proposal->record, proposal->length);
        length = rig->result.length;
        assert_true(length <= sizeof result);
        memcpy(result, rig->result.bytes, length);
    }
    rig->shards[proposal->group].proposals++;
    pthread_mutex_unlock(&rig->mutex);
    if (answer == ANSWER_OK)
        proposal->done(proposal, DN_OK, 1, result, length, NULL);
    else
        proposal->done(proposal,
                       dn_fail(&err, answer == ANSWER_LOST ? DN_UNAVAILABLE : DN_DEADLINE, "as ordered"), 0,
                       NULL, 0, &err);
    pthread_mutex_lock(&rig->mutex);
}

static inline void *consensus_thread(void *data)
{
    struct rig *rig = data;
    pthread_mutex_lock(&rig->mutex);
    while (!rig->stopping || rig->queued > 0) {
        if (rig->queued == 0 || (rig->answer == ANSWER_HELD && !rig->stopping)) {
            pthread_cond_wait(&rig->changed, &rig->mutex);
            continue;
        }
        struct dn_proposal *proposal = rig->queue[--rig->queued];
        bool as_ordered = rig->answer_group == 0 || rig->answer_group == proposal->group;
        complete(rig, proposal, rig->stopping ? ANSWER_LOST : as_ordered ? rig->answer : ANSWER_OK);
    }
    pthread_mutex_unlock(&rig->mutex);
    return NULL;
}

static inline size_t queue_of(struct rig *rig, uint32_t group, uint64_t from, struct dn_dead_letter *ret,
                              size_t max)
{
    dn_epoch_enter(rig->reader);
    size_t count = dn_shard_dead_letters(rig->shards[group].shard, from, ret, max);
    dn_epoch_leave(rig->reader);
    return count;
}

static inline size_t target_dead_letters(void *data, uint32_t group, uint64_t from,
                                         struct dn_dead_letter *ret, size_t max)
{
    struct rig *rig = data;
    pthread_mutex_lock(&rig->mutex);
    size_t count = queue_of(rig, group, from, ret, max);
    pthread_mutex_unlock(&rig->mutex);
    return count;
}

static inline bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                                      int64_t *ret_next_offset)
{
    struct rig *rig = data;
    pthread_mutex_lock(&rig->mutex);
    dn_epoch_enter(rig->reader);
    bool known = dn_shard_next_offset(rig->shards[group].shard, stream, partition, ret_next_offset);
    dn_epoch_leave(rig->reader);
    pthread_mutex_unlock(&rig->mutex);
    return known;
}

static inline bool target_leads(void *data, uint32_t group)
{
    struct rig *rig = data;
    pthread_mutex_lock(&rig->mutex);
    bool led = rig->shards[group].led;
    pthread_mutex_unlock(&rig->mutex);
    return led;
}

/* Marks in `seen` which letters of the group stand in the file; only_flushed: in what was flushed of it. */
static inline void read_letters(const char *path, uint32_t group, bool only_flushed, unsigned seen[SEEN_MAX])
{
    struct stat info;
    char *text = NULL;
    size_t length = 0;
    off_t at = 0;
    ssize_t got;

    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    assert_int_equal(fstat(fileno(file), &info), 0);
    off_t end = only_flushed ? flushed_size(&info) : info.st_size;
    while ((got = getline(&text, &length, file)) > 0) {
        uint32_t shard;
        uint64_t number;
        at += got;
        if (at <= end && sscanf(text, "{\"shard\":%" SCNu32 ",\"number\":%" SCNu64, &shard, &number) == 2 &&
            shard == group && number < SEEN_MAX)
            seen[number]++;
    }
    free(text);
    fclose(file);
}

static inline void read_folder(const char *folder, uint32_t group, bool only_flushed, unsigned seen[SEEN_MAX])
{
    struct dirent *entry;
    char path[PATH_MAX];
    struct stat info;
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return;
    while ((entry = readdir(dir)) != NULL) {
        int length = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof path || entry->d_name[0] == '.' || stat(path, &info) != 0)
            continue;
        if (S_ISDIR(info.st_mode))
            read_folder(path, group, only_flushed, seen);
        else
            read_letters(path, group, only_flushed, seen);
    }
    closedir(dir);
}

/* The test said so, in the place of another node. */
static inline bool said_written(struct rig *rig, uint32_t group, const struct dn_dead_letter *letter)
{
    char name[DN_READER_NAME_MAX];
    int64_t before = 0;

    dn_reader_name(dn_stream_node(letter->source), name);
    dn_epoch_enter(rig->reader);
    bool known = dn_shard_next_offset(rig->shards[group].shard, name, DN_READER_LETTERS, &before);
    dn_epoch_leave(rig->reader);
    return known && rig->trusts_words && letter->number < (uint64_t)before;
}

/* All the letters that leave the queue must be safe elsewhere; node_id not 0: those of this node's streams
 * that it says are written. */
static inline void check_durable(struct rig *rig, uint32_t group, uint64_t before, uint64_t node_id)
{
    static unsigned seen[SEEN_MAX];
    static struct dn_dead_letter all[SEEN_MAX];

    memset(seen, 0, sizeof seen);
    read_folder(rig->folder, group, true, seen);
    size_t count = queue_of(rig, group, 0, all, SEEN_MAX);
    for (size_t i = 0; i < count && all[i].number < before; i++) {
        if (node_id != 0 && dn_stream_node(all[i].source) != node_id)
            continue;
        if ((all[i].number >= SEEN_MAX || seen[all[i].number] == 0) && !said_written(rig, group, &all[i]))
            rig->fault = "a proposal covers a letter that is not durable";
    }
}

/* "My letters below this are written": the word of a node on streams that only it reads. */
static inline uint64_t read_word(struct rig *rig, struct dn_reader *reader, uint64_t *ret_node)
{
    char name[DN_SOURCE_MAX + 1] = "";
    size_t length;
    const uint8_t *text = dn_reader_blob(reader, DN_SOURCE_MAX, &length);
    if (text != NULL)
        memcpy(name, text, length);
    uint32_t partition = dn_reader_u32(reader);
    dn_reader_i64(reader);
    uint64_t before = (uint64_t)dn_reader_i64(reader);
    *ret_node = name[0] == '@' ? strtoull(name + 1, NULL, 16) : 0;
    if (*ret_node == 0 || partition != DN_READER_LETTERS)
        rig->fault = "a word of another kind";
    return before;
}

static inline bool target_propose(void *data, struct dn_proposal *proposal)
{
    struct rig *rig = data;
    struct dn_reader reader;
    bool taken = false;

    pthread_mutex_lock(&rig->mutex);
    dn_reader_init(&reader, proposal->record, proposal->length);
    uint8_t kind = dn_reader_u8(&reader);
    if (kind != DN_RECORD_DEAD_WRITTEN && kind != DN_RECORD_STREAM)
        rig->fault = "a proposal of another kind";
    dn_reader_u8(&reader);
    uint64_t node_id = 0;
    uint64_t before = kind == DN_RECORD_STREAM ? read_word(rig, &reader, &node_id) : dn_reader_u64(&reader);
    if (reader.failed || proposal->deadline_us <= dn_monotonic_us())
        rig->fault = "a proposal that is not right";
    if (rig->no_proposals)
        rig->fault = "a proposal after stop";
    if (rig->check_files)
        check_durable(rig, proposal->group, before, node_id);
    if (rig->answer != ANSWER_BUSY && rig->queued < 2 * SHARDS) {
        rig->queue[rig->queued++] = proposal;
        if (node_id == 0)
            rig->shards[proposal->group].highest = before;
        pthread_cond_broadcast(&rig->changed);
        taken = true;
    }
    pthread_mutex_unlock(&rig->mutex);
    return taken;
}

static inline void rig_answer(struct rig *rig, enum answer answer)
{
    pthread_mutex_lock(&rig->mutex);
    rig->answer = answer;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->mutex);
}

/* Up to where was proposed for the group. */
static inline uint64_t rig_highest(struct rig *rig, uint32_t group)
{
    pthread_mutex_lock(&rig->mutex);
    uint64_t highest = rig->shards[group].highest;
    pthread_mutex_unlock(&rig->mutex);
    return highest;
}

/* How many of the group's were answered; *ret_queued: how many of all groups wait for it. */
static inline uint64_t rig_proposals(struct rig *rig, uint32_t group, size_t *ret_queued)
{
    pthread_mutex_lock(&rig->mutex);
    uint64_t proposals = rig->shards[group].proposals;
    *ret_queued = rig->queued;
    pthread_mutex_unlock(&rig->mutex);
    return proposals;
}

static inline void rig_lead(struct rig *rig, uint32_t group, bool led)
{
    pthread_mutex_lock(&rig->mutex);
    rig->shards[group].led = led;
    pthread_mutex_unlock(&rig->mutex);
}

/* `count` messages of a partition that gave no event: marks in a stream record, every third offset. */
static inline void rig_bury(struct rig *rig, uint32_t group, const char *stream, uint32_t partition,
                            size_t count)
{
    static struct dn_dead_in dead[1000];
    struct dn_buffer record;
    struct dn_result answer;
    struct dn_error err;
    size_t s = 0;

    assert_true(count <= 1000 && partition < 16);
    pthread_mutex_lock(&rig->mutex);
    while (s < 16 && rig->streams[s][0] != '\0' && strcmp(rig->streams[s], stream) != 0)
        s++;
    assert_true(s < 16);
    snprintf(rig->streams[s], sizeof rig->streams[s], "%s", stream);
    int64_t from = rig->shards[group].next_offset[s][partition], at = from;
    for (size_t i = 0; i < count; i++, at += 3) {
        dead[i].offset = at;
        dead[i].reason = (uint8_t)(DN_DEAD_UNDECODABLE + i % 3);
    }
    dn_buffer_init(&record, DN_RECORD_MAX);
    dn_record_stream(&record, stream, partition, from == 0 ? DN_OFFSET_UNSET : from, at, NULL, 0, dead,
                     count);
    assert_false(record.failed);
    rig_apply(rig, group, record.bytes, record.length);
    assert_int_equal(dn_result_parse(rig->result.bytes, rig->result.length, DN_RECORD_STREAM, &answer, &err),
                     DN_OK);
    assert_int_equal(answer.status, DN_RESULT_OK);
    rig->shards[group].next_offset[s][partition] = at;
    dn_buffer_free(&record);
    pthread_mutex_unlock(&rig->mutex);
    if (rig->letters != NULL)
        dn_deadletters_wake(rig->letters);
}

/* ---- a test's life ----------------------------------------------------------------------------------- */

static inline void rig_start(struct rig *rig)
{
    struct dn_error err;
    if (dn_deadletters_start(&rig->options, &rig->letters, &err) != DN_OK)
        fail_msg("%s", err.message);
}

/* As when the process ends; what consensus has not answered is answered by its own end. */
static inline void rig_stop(struct rig *rig, unsigned wait_ms)
{
    dn_deadletters_stop(rig->letters, wait_ms);
    pthread_mutex_lock(&rig->mutex);
    rig->stopping = true;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->mutex);
    pthread_join(rig->consensus, NULL);
    dn_deadletters_destroy(rig->letters);
    rig->letters = NULL;
    assert_int_equal(atomic_load(&fetchers), 0);
    rig->stopping = false;
    assert_int_equal(pthread_create(&rig->consensus, NULL, consensus_thread, rig), 0);
}

static inline struct dn_source_config *rig_source(struct rig *rig, const char *name, enum dn_dead_sink sink,
                                                  const char *to)
{
    struct dn_source_config *config = &rig->sources[rig->options.source_count++];
    snprintf(config->name, sizeof config->name, "%s", name);
    snprintf(config->dead_to, sizeof config->dead_to, "%s", to);
    config->dead_sink = sink;
    return config;
}

static inline int rig_open(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    strcpy(rig->folder, "dead_letters.XXXXXX");
    assert_non_null(mkdtemp(rig->folder));
    snprintf(rig->data_dir, sizeof rig->data_dir, "%s/data", rig->folder);
    assert_int_equal(mkdir(rig->data_dir, 0700), 0);
    snprintf(rig->file, sizeof rig->file, "%s/dead/both.jsonl", rig->folder);
    pthread_mutex_init(&rig->mutex, NULL);
    pthread_cond_init(&rig->changed, NULL);
    rig->check_files = true;
    rig->epoch = dn_epoch_create();
    rig->reader = dn_epoch_register(rig->epoch);
    for (uint32_t group = 1; group <= SHARDS; group++) {
        rig->shards[group].shard = dn_shard_create(rig->epoch);
        rig->shards[group].led = true;
        assert_non_null(rig->shards[group].shard);
    }
    dn_buffer_init(&rig->result, 1u << 20);
    assert_int_equal(pthread_create(&rig->consensus, NULL, consensus_thread, rig), 0);
    rig_source(rig, "a", DN_DEAD_TO_FILE, rig->file);
    rig->options.sources = rig->sources;
    rig->options.shard_count = SHARDS;
    rig->options.node_id = 1;
    rig->options.data_dir = rig->data_dir;
    rig->options.driver = fake_driver_of;
    rig->options.target = (struct dn_ingest_target){
        .data = rig,
        .propose = target_propose,
        .leads = target_leads,
        .dead_letters = target_dead_letters,
    };
    atomic_store(&fetches, 0);
    fetch_is_well();
    *state = rig;
    return 0;
}

static inline int rig_close(void **state)
{
    struct rig *rig = *state;
    char command[128];

    if (rig->letters != NULL)
        rig_stop(rig, 5000);
    pthread_mutex_lock(&rig->mutex);
    rig->stopping = true;
    pthread_cond_broadcast(&rig->changed);
    pthread_mutex_unlock(&rig->mutex);
    pthread_join(rig->consensus, NULL);
    for (uint32_t group = 1; group <= SHARDS; group++)
        dn_shard_destroy(rig->shards[group].shard);
    dn_epoch_unregister(rig->reader);
    dn_epoch_destroy(rig->epoch);
    dn_buffer_free(&rig->result);
    snprintf(command, sizeof command, "rm -rf '%s'", rig->folder);
    int rv = system(command);
    const char *fault = rig->fault;
    free(rig);
    if (fault != NULL)
        fprintf(stderr, "rig: %s\n", fault);
    return rv != 0 || fault != NULL;
}

/* ---- looking ----------------------------------------------------------------------------------------- */

static inline size_t rig_waiting(struct rig *rig, uint32_t group)
{
    static struct dn_dead_letter all[SEEN_MAX];
    pthread_mutex_lock(&rig->mutex);
    size_t count = queue_of(rig, group, 0, all, SEEN_MAX);
    pthread_mutex_unlock(&rig->mutex);
    return count;
}

/* Waits until the expression is true; a test that waits for nothing fails by it. */
#define WAIT_FOR(expression)                                                                                 \
    do {                                                                                                     \
        uint64_t until_us_ = dn_monotonic_us() + WAIT_MS * UINT64_C(1000);                                   \
        while (!(expression)) {                                                                              \
            if (dn_monotonic_us() > until_us_)                                                               \
                fail_msg("never: %s", #expression);                                                          \
            nap();                                                                                           \
        }                                                                                                    \
    } while (0)

static inline void rig_wait_empty(struct rig *rig)
{
    for (uint32_t group = 1; group <= SHARDS; group++)
        WAIT_FOR(rig_waiting(rig, group) == 0);
}

/* How many different letters of the group stand in the folder's files; each at least, and at most, so often.
 */
static inline size_t rig_letters(struct rig *rig, uint32_t group, unsigned least, unsigned most)
{
    static unsigned seen[SEEN_MAX];
    size_t count = 0;

    memset(seen, 0, sizeof seen);
    read_folder(rig->folder, group, false, seen);
    for (size_t i = 0; i < SEEN_MAX; i++) {
        if (seen[i] > 0 && (seen[i] < least || seen[i] > most))
            fail_msg("letter %zu of shard %u stands there %u times", i, group, seen[i]);
        count += seen[i] > 0;
    }
    return count;
}

/* The whole file is letters of the fake source with the right bytes; returns how many. */
static inline size_t rig_check_file(const char *path)
{
    struct dn_dead_file *file;
    struct dn_dead_line line;
    struct dn_buffer buffer;
    struct dn_error err;
    char text[256];
    size_t count = 0;
    enum dn_code code;

    if (dn_dead_file_open(path, &file, &err) != DN_OK)
        fail_msg("%s", err.message);
    dn_buffer_init(&buffer, 1u << 20);
    while ((code = dn_dead_file_next(file, &buffer, &line, &err)) == DN_OK) {
        int length = text_of(line.stream, line.partition, line.offset, text, sizeof text);
        assert_int_equal(line.length, length);
        assert_memory_equal(line.bytes, text, line.length);
        assert_int_equal(line.key != NULL, line.offset % 2);
        assert_true(line.time_ms == 1000 + line.offset);
        assert_true(line.judged_ms == 1700000000000);
        assert_int_equal(strncmp(line.stream, line.source, strlen(line.source)), 0);
        assert_in_range(line.reason, DN_DEAD_UNDECODABLE, DN_DEAD_MISROUTED);
        count++;
    }
    if (code != DN_NOT_FOUND)
        fail_msg("%s", err.message);
    dn_dead_file_close(file);
    dn_buffer_free(&buffer);
    return count;
}

static inline int64_t rig_trouble(struct rig *rig, char text[DN_SOURCE_TEXT_MAX])
{
    return dn_deadletters_trouble(rig->letters, text);
}

#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

#endif
