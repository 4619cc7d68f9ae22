/* Files of items: the first byte picks .jsonl, .vec or .npy; for .npy u16 length of the ids follows, the ids,
 * then the matrix. What a reader hands on has passed dn_item_check. */
#include "base/buffer.h"
#include "base/error.h"
#include "index/index.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_file.h"

#include <string.h>

#define ITEMS_MAX 10000u

const unsigned dn_fuzz_runs = 4500;

static enum dn_code each(void *data, const struct dn_item *item, struct dn_error *err)
{
    unsigned *count = data;
    DN_ASSERT(dn_item_check(item, err) == DN_OK);
    return ++*count < ITEMS_MAX ? DN_OK : dn_fail(err, DN_EXHAUSTED, "enough");
}

static void read_one(const char *name, const uint8_t *bytes, size_t length, const char *ids)
{
    struct memory_file file;
    struct dn_error err;
    unsigned count = 0;
    memory_file_open(&file, name, bytes, length);
    (void)dn_items_read(file.path, ids, each, &count, &err);
    memory_file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    uint8_t format = dn_reader_u8(&reader);
    if (format % 3 < 2) {
        size_t left = dn_reader_left(&reader);
        read_one(format % 3 == 0 ? "x.jsonl" : "x.vec", bytes + reader.offset, left, NULL);
        return 0;
    }
    size_t ids_length = dn_reader_u16(&reader), left = dn_reader_left(&reader);
    if (reader.failed) {
        return 0;
    }
    ids_length = ids_length < left ? ids_length : left;
    struct memory_file ids;
    memory_file_open(&ids, "ids", bytes + reader.offset, ids_length);
    read_one("x.npy", bytes + reader.offset + ids_length, left - ids_length, ids.path);
    memory_file_close(&ids);
    return 0;
}

static size_t seed_text(uint8_t format, const char *text, uint8_t *out)
{
    out[0] = format;
    memcpy(out + 1, text, strlen(text));
    return 1 + strlen(text);
}

static size_t seed_npy(const char *header, uint8_t version, uint8_t *out, size_t max)
{
    static const float matrix[6] = {1, 2, 3, -4, 5.5f, 6};
    struct dn_buffer bytes;
    dn_buffer_init(&bytes, max);
    dn_buffer_u8(&bytes, 2);
    dn_buffer_u16(&bytes, 5);
    dn_buffer_append(&bytes, "a\nbb\n", 5);
    dn_buffer_append(&bytes, "\x93NUMPY", 6);
    dn_buffer_u8(&bytes, version);
    dn_buffer_u8(&bytes, 0);
    if (version == 1) {
        dn_buffer_u16(&bytes, (uint16_t)strlen(header));
    } else {
        dn_buffer_u32(&bytes, (uint32_t)strlen(header));
    }
    dn_buffer_append(&bytes, header, strlen(header));
    for (int i = 0; i < 6; i++) {
        dn_buffer_f32(&bytes, matrix[i]);
    }
    DN_ASSERT(!bytes.failed);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    return length;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    switch (n) {
    case 0:
        return seed_text(
            0,
            "{\"id\":\"a\",\"vector\":[1,2.5,-3e2],\"category\":\"x\",\"price\":1.5,\"available\":true,"
            "\"attributes\":{\"k\":\"v\",\"colour\":\"gr\\u00fcn\"}}\n\n{\"id\":\"b\"}\n",
            out);
    case 1:
        return seed_text(1, "2 3\na 1 2 3\nbb -4 5.5 6e-2\n", out);
    case 2:
        return seed_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 1, out, max);
    case 3:
        return seed_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", 2, out, max);
    default:
        return 0;
    }
}
