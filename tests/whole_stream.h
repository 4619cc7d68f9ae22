/* Snapshots as whole buffers, for tests: the functions of a state machine that write to a sink and read from
 * a source, between bytes in memory. The source's own buffer is the smallest that is allowed, and is filled
 * in small pieces, so that values lie across them. */
#ifndef TESTS_WHOLE_STREAM_H
#define TESTS_WHOLE_STREAM_H

#include "base/stream.h"

#include <stdlib.h>

#define WHOLE_PIECE_BYTES 1021

static inline enum dn_code
whole_write(enum dn_code (*write)(void *state, void *capture, struct dn_sink *out, struct dn_error *err),
            void *state, void *capture, struct dn_buffer *out, struct dn_error *err)
{
    struct dn_buffer_sink sink;
    uint8_t room[509]; /* nothing fits it evenly */
    dn_buffer_sink_init(&sink, out, room, sizeof room);
    enum dn_code code = write(state, capture, &sink.sink, err);
    if (code == DN_OK && dn_sink_flush(&sink.sink) != DN_OK) {
        code = dn_fail(err, sink.sink.code, "%s", sink.sink.error.message);
    }
    return code;
}

struct whole_source {
    struct dn_bytes_source bytes; /* first: the source is all three */
    enum dn_code (*fill)(struct dn_source *source, uint8_t *bytes, size_t length, size_t *ret_length,
                         struct dn_error *err);
};

static inline enum dn_code whole_fill(struct dn_source *source, uint8_t *bytes, size_t length,
                                      size_t *ret_length, struct dn_error *err)
{
    struct whole_source *self = (struct whole_source *)source;
    return self->fill(source, bytes, length < WHOLE_PIECE_BYTES ? length : WHOLE_PIECE_BYTES, ret_length,
                      err);
}

static inline enum dn_code
whole_build(enum dn_code (*build)(void *state, struct dn_source *in, void **ret_built, struct dn_error *err),
            void *state, const uint8_t *bytes, size_t length, void **ret_built, struct dn_error *err)
{
    struct whole_source source;
    uint8_t *room = malloc(DN_STREAM_BUFFER_BYTES);
    if (room == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a test");
    }
    dn_bytes_source_init(&source.bytes, bytes, length, room, DN_STREAM_BUFFER_BYTES);
    source.fill = source.bytes.source.fill;
    source.bytes.source.fill = whole_fill;
    enum dn_code code = build(state, &source.bytes.source, ret_built, err);
    free(room);
    return code;
}

#endif
