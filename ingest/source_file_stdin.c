#include "ingest/source_file_stdin.h"

#include "base/log.h"
#include "ingest/reader.h"
#include "ingest/source_file_table_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define CHUNK_BYTES (256u << 10)
#define WAIT_MS 50              /* until the thread looks whether it shall stop, or may go on */
#define HOLE_BYTES (16ll << 20) /* given back at a time */

struct dn_file_stdin {
    const struct dn_source_host *host;
    char stream[DN_SOURCE_MAX + 1];
    char path[DN_FILE_PATH_MAX];
    int fd;
    pthread_t thread;
    atomic_bool stop, ended;
    atomic_llong begin, end, read_to;
    bool no_holes; /* the file system cannot make them */
    pthread_mutex_t lock;
    char error[DN_SOURCE_TEXT_MAX]; /* under the lock */
    uint8_t chunk[CHUNK_BYTES];
};

static void set_error(struct dn_file_stdin *in, const char *what, const char *path)
{
    pthread_mutex_lock(&in->lock);
    snprintf(in->error, sizeof(in->error), "%s%.300s: %s: standard input is read no further", what, path,
             strerror(errno));
    pthread_mutex_unlock(&in->lock);
}

void dn_file_stdin_error(struct dn_file_stdin *in, char ret_text[DN_SOURCE_TEXT_MAX])
{
    pthread_mutex_lock(&in->lock);
    memcpy(ret_text, in->error, sizeof(in->error));
    pthread_mutex_unlock(&in->lock);
}

/* Gives back what is far behind. */
static void make_holes(struct dn_file_stdin *in)
{
    long long begin = atomic_load(&in->begin);
    long long keep = atomic_load(&in->read_to) - DN_FILE_STDIN_KEPT;

    if (in->no_holes || keep - begin < HOLE_BYTES) {
        return;
    }
    atomic_store(&in->begin, keep); /* first: nobody shall read zeros */
    if (fallocate(in->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, keep - begin) != 0) {
        in->no_holes = true;
        dn_warn("ingest", "%s: %s: what was read from standard input is kept until the end", in->path,
                strerror(errno));
    }
}

static bool put(struct dn_file_stdin *in, size_t length)
{
    size_t done = 0;

    while (done < length) {
        ssize_t wrote = write(in->fd, in->chunk + done, length - done);

        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote <= 0) {
            set_error(in, "write ", in->path);
            return false;
        }
        done += (size_t)wrote;
    }
    atomic_fetch_add(&in->end, (long long)length);
    return true;
}

/* False: there will be no more. */
static bool copy_some(struct dn_file_stdin *in)
{
    struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
    ssize_t got;

    if (poll(&wait, 1, WAIT_MS) <= 0) {
        return true;
    }
    got = read(STDIN_FILENO, in->chunk, CHUNK_BYTES);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return true;
    }
    if (got < 0) {
        set_error(in, "read ", "standard input");
        return false;
    }
    if (got == 0) {
        atomic_store(&in->ended, true);
    }
    return got > 0 && put(in, (size_t)got);
}

static void *run(void *data)
{
    struct dn_file_stdin *in = data;
    struct timespec pause = {.tv_nsec = 5000000};
    bool more = true;

    while (more && !atomic_load(&in->stop)) {
        make_holes(in);
        if (atomic_load(&in->end) - atomic_load(&in->read_to) >= DN_FILE_STDIN_AHEAD) {
            nanosleep(&pause, NULL);
            continue;
        }
        more = copy_some(in);
        in->host->wake(in->host->data);
    }
    in->host->wake(in->host->data);
    return NULL;
}

/* ---- names ---- */

static bool path_of_run(const char *data_dir, const char *stream, char ret[DN_FILE_PATH_MAX])
{
    char name[DN_SOURCE_MAX + 16];
    const char *slash = strchr(stream, '/');

    snprintf(name, sizeof(name), "stdin-%.*s%s", (int)(slash - stream), stream, slash + 1);
    return data_dir != NULL && dn_file_join(data_dir, name, ret);
}

bool dn_file_stdin_path_of(const struct dn_source_config *config, const struct dn_source_host *host,
                           const char *stream, char ret[DN_FILE_PATH_MAX])
{
    size_t length = strlen(config->name);

    return strncmp(stream, config->name, length) == 0 && strncmp(stream + length, "/-@", 3) == 0 &&
           strchr(stream + length + 1, '/') == NULL && dn_stream_node(stream) == host->node_id &&
           path_of_run(host->data_dir, stream, ret);
}

/* Those of runs that were killed. */
static bool is_left_over(const char *name, void *data)
{
    const char *source = data;
    size_t length = strlen(source);

    return strncmp(name, "stdin-", 6) == 0 && strncmp(name + 6, source, length) == 0 &&
           strncmp(name + 6 + length, "-@", 2) == 0;
}

static void delete_left_over(const struct dn_source_config *config, const char *folder)
{
    struct dn_file_names names;
    char path[DN_FILE_PATH_MAX], name[DN_SOURCE_NAME_MAX + 1];

    memcpy(name, config->name, sizeof(name));
    if (dn_file_list(folder, is_left_over, name, 64, &names) != 0) {
        return;
    }
    for (size_t i = 0; i < names.count; i++) {
        if (dn_file_join(folder, names.names[i], path)) {
            unlink(path);
        }
    }
    dn_file_names_free(&names);
}

const char *dn_file_stdin_stream(const struct dn_file_stdin *in)
{
    return in->stream;
}

const char *dn_file_stdin_path(const struct dn_file_stdin *in)
{
    return in->path;
}

bool dn_file_stdin_ended(const struct dn_file_stdin *in)
{
    return atomic_load(&in->ended);
}

int64_t dn_file_stdin_begin(const struct dn_file_stdin *in)
{
    return atomic_load(&in->begin);
}

void dn_file_stdin_read_to(struct dn_file_stdin *in, int64_t offset)
{
    atomic_store(&in->read_to, offset);
}

/* ---- start and stop ---- */

static enum dn_code open_copy(struct dn_file_stdin *in, const struct dn_source_config *config,
                              struct dn_error *err)
{
    struct dn_hash128 run;

    if (in->host->data_dir == NULL) {
        return dn_fail(err, DN_INVALID, "standard input needs a data folder");
    }
    if (getrandom(&run, sizeof(run), 0) != (ssize_t)sizeof(run)) {
        return dn_fail(err, DN_IO, "no random bytes: %s", strerror(errno));
    }
    dn_file_name_of_run(config->name, in->host->node_id, &run, in->stream);
    if (!path_of_run(in->host->data_dir, in->stream, in->path)) {
        return dn_fail(err, DN_INVALID, "the data folder's path is too long for standard input");
    }
    delete_left_over(config, in->host->data_dir);
    in->fd = open(in->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return in->fd >= 0 ? DN_OK : dn_fail(err, DN_IO, "open '%s': %s", in->path, strerror(errno));
}

static void destroy(struct dn_file_stdin *in)
{
    if (in->fd >= 0) {
        close(in->fd);
        unlink(in->path);
    }
    pthread_mutex_destroy(&in->lock);
    free(in);
}

enum dn_code dn_file_stdin_start(const struct dn_source_config *config, const struct dn_source_host *host,
                                 struct dn_file_stdin **ret, struct dn_error *err)
{
    struct dn_file_stdin *in = calloc(1, sizeof(*in));
    enum dn_code code;
    int error;

    if (in == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to read standard input");
    }
    in->host = host;
    in->fd = -1;
    pthread_mutex_init(&in->lock, NULL);
    code = open_copy(in, config, err);
    if (code == DN_OK && (error = pthread_create(&in->thread, NULL, run, in)) != 0) {
        code = dn_fail(err, DN_EXHAUSTED, "no thread to read standard input: %s", strerror(error));
    }
    if (code != DN_OK) {
        destroy(in);
        return code;
    }
    *ret = in;
    return DN_OK;
}

void dn_file_stdin_stop(struct dn_file_stdin *in)
{
    if (in != NULL) {
        atomic_store(&in->stop, true);
        pthread_join(in->thread, NULL);
        destroy(in);
    }
}
