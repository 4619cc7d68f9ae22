/* Feeds of events: files that operators bring. The first byte picks format and key; plain or gzip. */
#include "base/error.h"
#include "replay/feed.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_file.h"

#include <math.h>
#include <string.h>
#include <zlib.h>

#define EVENTS_MAX 100000

const unsigned dn_fuzz_runs = 6000;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const enum dn_feed_format formats[] = {DN_FEED_AUTO, DN_FEED_JSONL, DN_FEED_TSV};
    struct memory_file file;
    struct dn_feed *feed = NULL;
    struct dn_feed_event event;
    struct dn_error err;
    if (length == 0) {
        return 0;
    }
    memory_file_open(&file, "events", bytes + 1, length - 1);
    enum dn_feed_key key = bytes[0] & 4 ? DN_FEED_KEY_SESSION : DN_FEED_KEY_USER;
    enum dn_code code = dn_feed_open(file.path, formats[(bytes[0] & 3) % 3], key, "p-", &feed, &err);
    for (int i = 0; code == DN_OK && i < EVENTS_MAX; i++) {
        code = dn_feed_next(feed, &event, &err);
        if (code == DN_OK) {
            DN_ASSERT(dn_id_valid(event.key, strlen(event.key)) &&
                      dn_id_valid(event.item, strlen(event.item)));
            DN_ASSERT(dn_id_valid(event.event_id, strlen(event.event_id)));
            DN_ASSERT(event.time_ms >= 0 && event.weight >= 0 && isfinite(event.weight));
            DN_ASSERT(event.type >= 0 && event.type <= 8);
        } else if (code == DN_INVALID) {
            code = DN_OK; /* the next line may be a good one */
        }
    }
    dn_feed_close(feed);
    memory_file_close(&file);
    return 0;
}

static size_t seed_text(uint8_t flags, const char *text, uint8_t *out)
{
    out[0] = flags;
    memcpy(out + 1, text, strlen(text));
    return 1 + strlen(text);
}

static size_t seed_gzip(const char *text, uint8_t *out, size_t max)
{
    z_stream stream = {0};
    out[0] = 0;
    DN_ASSERT(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    stream.next_in = (Bytef *)(uintptr_t)text;
    stream.avail_in = (unsigned)strlen(text);
    stream.next_out = out + 1;
    stream.avail_out = (unsigned)max - 1;
    DN_ASSERT(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    size_t length = 1 + stream.total_out;
    deflateEnd(&stream);
    return length;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static const char jsonl[] = "{\"user\":\"u1\",\"item\":\"a\",\"type\":\"click\",\"time_ms\":"
                                "1700000000000,\"event_id\":\"e\",\"weight\":1.5,"
                                "\"session\":\"s\"}\n\n{\"session\":\"only\",\"user\":null,\"item\":\"b\"}\n{"
                                "\"user\":\"\\u00e4\",\"item\":\"c\"}";
    static const char tsv[] = "ts\tuser\tsession\titem\ttype\tprice\n1700000000.25\tu1\ts1\ta\tview\t9.5\r\n"
                              "1700000001\t\ts2\tb\t\t\n";
    switch (n) {
    case 0:
        return seed_text(0, jsonl, out);
    case 1:
        return seed_text(0, tsv, out);
    case 2:
        return seed_text(5, jsonl, out);
    case 3:
        return seed_text(6, tsv, out);
    case 4:
        return seed_gzip(jsonl, out, max);
    case 5:
        return seed_gzip(tsv, out, max);
    default:
        return 0;
    }
}
