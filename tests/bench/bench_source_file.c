/* Lines a second out of a file by the driver alone (nothing is decoded): plain, gzip, protobuf.
 *
 *   bench_source_file [FOLDER [LINES]]    default: /tmp, 4000000 lines of about 150 bytes */
#include "base/clock.h"
#include "ingest/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#define BATCH 1024

static void wake(void *data)
{
    (void)data;
}

static size_t event(char *line, size_t room, size_t number)
{
    return (size_t)snprintf(
        line, room,
        "{\"user_id\":\"user-%zu\",\"item_id\":\"item-%zu\",\"type\":\"view\",\"time_ms\":%zu,"
        "\"session\":\"s-%zu\",\"page\":\"/catalogue/%zu/details\",\"weight\":1.0}\n",
        number * 7919 % 1000003, number * 104729 % 50021, 1700000000000u + number, number / 20, number % 977);
}

static size_t write_events(const char *path, size_t lines, const char *mode, bool framed)
{
    gzFile file = gzopen(path, mode);
    size_t bytes = 0;

    for (size_t i = 0; i < lines && file != NULL; i++) {
        char line[320];
        size_t length = event(line + 2, sizeof(line) - 2, i);
        size_t from = framed ? 0 : 2;

        line[0] = (char)(0x80 | (length & 0x7f));
        line[1] = (char)(length >> 7);
        gzwrite(file, line + from, (unsigned)(length + 2 - from));
        bytes += length + 2 - from;
    }
    if (file == NULL || gzclose(file) != Z_OK) {
        fprintf(stderr, "cannot write %s\n", path);
        exit(1);
    }
    return bytes;
}

static void measure(const char *what, const char *path, enum dn_source_format format, size_t lines,
                    size_t bytes)
{
    static struct dn_message messages[BATCH];
    static struct dn_source_config config;
    const struct dn_source_host host = {.wake = wake};
    struct dn_error err = {0};
    struct rusage usage;
    size_t count = 0, sum = 0;
    uint64_t begun_us, took_us, longest_us = 0;
    bool end = false;
    void *self = NULL;

    memset(&config, 0, sizeof(config));
    strcpy(config.name, "bench");
    config.format = format;
    config.message_bytes = 1 << 20;
    config.list_count = 1;
    snprintf(config.list[0], sizeof(config.list[0]), "%s", path);
    if (dn_source_file.open(&config, &host, &self, &err) != DN_OK ||
        dn_source_file.start(self, 0, 0, 0, &err) != DN_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    begun_us = dn_monotonic_us();
    while (!end) {
        uint64_t turn_us = dn_monotonic_us();
        size_t got = dn_source_file.read(self, 0, 0, messages, BATCH);

        turn_us = dn_monotonic_us() - turn_us;
        longest_us = turn_us > longest_us ? turn_us : longest_us;
        for (size_t i = 0; i < got; i++) {
            end = messages[i].end;
            count += !end;
            sum += end ? 0 : messages[i].length + messages[i].bytes[messages[i].length / 2];
        }
        dn_source_file.release(self, 0, 0);
    }
    took_us = dn_monotonic_us() - begun_us;
    dn_source_file.close(self);
    getrusage(RUSAGE_SELF, &usage);
    printf("%-8s %zu lines of %.0f bytes in %.2f s: %.2f M lines/s, %.0f MB/s; longest read %.1f ms; "
           "%ld MB resident at most (%zu)%s\n",
           what, count, (double)bytes / (double)lines, (double)took_us / 1e6, (double)count / (double)took_us,
           (double)bytes / (double)took_us, (double)longest_us / 1e3, usage.ru_maxrss / 1024, sum,
           count == lines ? "" : " WRONG");
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "/tmp";
    size_t lines = argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 4000000;
    static const struct {
        const char *what, *mode;
        enum dn_source_format format;
    } kinds[] = {{"plain", "wbT", DN_FORMAT_JSON},
                 {"gzip", "wb6", DN_FORMAT_JSON},
                 {"protobuf", "wbT", DN_FORMAT_PROTOBUF}};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        char path[400];
        size_t bytes;

        snprintf(path, sizeof(path), "%s/dunlin_bench_source_file.%d", folder, (int)getpid());
        bytes = write_events(path, lines, kinds[i].mode, kinds[i].format == DN_FORMAT_PROTOBUF);
        measure(kinds[i].what, path, kinds[i].format, lines, bytes);
        unlink(path);
    }
    return 0;
}
