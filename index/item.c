/* One item's bytes: checking, encoding (the proposer's part) and making blocks (apply's part).
 *
 * Encoded item, little-endian: u16 id length, u16 category length, u8 flags, u8 attribute count, u32 dim,
 * u64 price bits (0 without a price), id, category, attributes sorted by key (u16 key length, u16 value
 * length, key, value), then dim floats. Everything before the floats is the "meta" part. */
#include "base/hash.h"
#include "index/catalog_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ITEM_FIXED_BYTES 18u

static uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Shortlex would do as well; this is the order of strcmp on unsigned bytes, shorter first on a tie. */
static int compare_text(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t common = a_length < b_length ? a_length : b_length;
    int order = memcmp(a, b, common);
    if (order != 0) {
        return order;
    }
    return (a_length > b_length) - (a_length < b_length);
}

static bool text_is(const char *text, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(text, name, length) == 0;
}

static bool key_is_built_in(const char *key, size_t length)
{
    return text_is(key, length, "category") || text_is(key, length, "price") ||
           text_is(key, length, "available");
}

static bool key_is_valid(const char *key, size_t length)
{
    return length >= 1 && length <= DN_ATTRIBUTE_KEY_MAX && dn_id_valid(key, length) &&
           !key_is_built_in(key, length);
}

enum vector_fault { VECTOR_FINE, VECTOR_NOT_FINITE, VECTOR_ZERO };

/* By bits alone: apply uses it too. */
static enum vector_fault vector_check(const uint8_t *bytes, uint32_t dim)
{
    bool zero = true;
    for (uint32_t i = 0; i < dim; i++) {
        uint32_t bits;
        memcpy(&bits, bytes + (size_t)i * sizeof bits, sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u) {
            return VECTOR_NOT_FINITE;
        }
        zero = zero && (bits & 0x7fffffffu) == 0;
    }
    return zero ? VECTOR_ZERO : VECTOR_FINE;
}

static enum dn_code check_attributes(const struct dn_item *item, struct dn_error *err)
{
    if (item->attribute_count > DN_ATTRIBUTES_MAX) {
        return dn_fail(err, DN_INVALID, "item has %zu attributes; the most is %d", item->attribute_count,
                       DN_ATTRIBUTES_MAX);
    }
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *a = &item->attributes[i];
        if (a->key_length >= 1 && a->key_length <= DN_ATTRIBUTE_KEY_MAX &&
            key_is_built_in(a->key, a->key_length)) {
            return dn_fail(err, DN_INVALID,
                           "attribute '%.*s' is built in: set the item's field of that name instead",
                           (int)a->key_length, a->key);
        }
        if (!key_is_valid(a->key, a->key_length)) {
            return dn_fail(err, DN_INVALID,
                           "attribute %zu: the key must be 1 to %d bytes of UTF-8 without NUL", i + 1,
                           DN_ATTRIBUTE_KEY_MAX);
        }
        if (a->value_length > DN_ATTRIBUTE_VALUE_MAX || !dn_utf8_valid(a->value, a->value_length)) {
            return dn_fail(err, DN_INVALID, "attribute '%.*s': the value must be at most %d bytes of UTF-8",
                           (int)a->key_length, a->key, DN_ATTRIBUTE_VALUE_MAX);
        }
        for (size_t j = 0; j < i; j++) {
            const struct dn_attribute *b = &item->attributes[j];
            if (compare_text(a->key, a->key_length, b->key, b->key_length) == 0) {
                return dn_fail(err, DN_INVALID, "attribute '%.*s' is given twice", (int)a->key_length,
                               a->key);
            }
        }
    }
    return DN_OK;
}

enum dn_code dn_item_check(const struct dn_item *item, struct dn_error *err)
{
    if (!dn_id_valid(item->id, item->id_length)) {
        return dn_fail(err, DN_INVALID, "item id must be 1 to %d bytes of UTF-8 without NUL", DN_ID_MAX);
    }
    if (item->category_length > DN_CATEGORY_MAX ||
        (item->category_length > 0 && !dn_utf8_valid(item->category, item->category_length))) {
        return dn_fail(err, DN_INVALID, "category must be at most %u bytes of UTF-8", DN_CATEGORY_MAX);
    }
    if (isinf(item->price)) {
        return dn_fail(err, DN_INVALID, "price is infinite: give a finite number, or none");
    }
    if (item->vector != NULL || item->dim != 0) {
        if (item->vector == NULL || item->dim == 0 || item->dim > DN_VECTOR_DIM_MAX) {
            return dn_fail(err, DN_INVALID, "vector has %u numbers; 1 to %d are allowed", item->dim,
                           DN_VECTOR_DIM_MAX);
        }
        switch (vector_check((const uint8_t *)item->vector, item->dim)) {
        case VECTOR_NOT_FINITE:
            return dn_fail(err, DN_INVALID, "vector holds a number that is NaN or infinite");
        case VECTOR_ZERO:
            return dn_fail(err, DN_INVALID, "vector is all zeros: it has no direction; leave it out instead");
        case VECTOR_FINE:
            break;
        }
    }
    return check_attributes(item, err);
}

/* ---- encoding: the proposer ---------------------------------------------------------------------------- */

static void append_unit_vector(struct dn_buffer *out, const float *vector, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) {
        sum += (double)vector[i] * (double)vector[i];
    }
    double scale = sum > 0 && isfinite(sum) ? 1.0 / sqrt(sum) : 1.0;
    for (uint32_t i = 0; i < dim; i++) {
        dn_buffer_f32(out, (float)((double)vector[i] * scale));
    }
}

bool dn_item_encode(struct dn_buffer *out, const struct dn_item *item)
{
    if (item->attribute_count > DN_ATTRIBUTES_MAX || item->dim > DN_VECTOR_DIM_MAX) {
        return false;
    }
    uint32_t dim = item->vector != NULL ? item->dim : 0;
    uint8_t order[DN_ATTRIBUTES_MAX];
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *a = &item->attributes[i];
        size_t at = i;
        for (; at > 0; at--) {
            const struct dn_attribute *b = &item->attributes[order[at - 1]];
            if (compare_text(b->key, b->key_length, a->key, a->key_length) <= 0) {
                break;
            }
            order[at] = order[at - 1];
        }
        order[at] = (uint8_t)i;
    }
    bool priced = !isnan(item->price);
    dn_buffer_u16(out, item->id_length);
    dn_buffer_u16(out, item->category_length);
    dn_buffer_u8(out,
                 (uint8_t)((item->available ? DN_ITEM_AVAILABLE : 0) | (priced ? DN_ITEM_HAS_PRICE : 0)));
    dn_buffer_u8(out, (uint8_t)item->attribute_count);
    dn_buffer_u32(out, dim);
    dn_buffer_u64(out, priced ? bits_of_double(item->price) : 0);
    dn_buffer_append(out, item->id, item->id_length);
    dn_buffer_append(out, item->category, item->category_length);
    for (size_t i = 0; i < item->attribute_count; i++) {
        const struct dn_attribute *a = &item->attributes[order[i]];
        dn_buffer_u16(out, a->key_length);
        dn_buffer_u16(out, a->value_length);
        dn_buffer_append(out, a->key, a->key_length);
        dn_buffer_append(out, a->value, a->value_length);
    }
    if (dim > 0) {
        append_unit_vector(out, item->vector, dim);
    }
    return true;
}

void dn_catalog_record_upsert(struct dn_buffer *out, const struct dn_item *items, size_t count)
{
    dn_buffer_u8(out, DN_CATALOG_UPSERT);
    dn_buffer_u8(out, DN_RECORD_VERSION);
    dn_buffer_u32(out, (uint32_t)count);
    if (count > DN_ITEMS_PER_RECORD_MAX) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (!dn_item_encode(out, &items[i])) {
            out->failed = true;
            return;
        }
    }
}

void dn_catalog_record_delete(struct dn_buffer *out, const char *const *ids, const uint16_t *id_lengths,
                              size_t count)
{
    dn_buffer_u8(out, DN_CATALOG_DELETE);
    dn_buffer_u8(out, DN_RECORD_VERSION);
    dn_buffer_u32(out, (uint32_t)count);
    if (count > DN_ITEMS_PER_RECORD_MAX) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        dn_buffer_blob(out, ids[i], id_lengths[i]);
    }
}

void dn_catalog_record_fact(struct dn_buffer *out, const char *key, const char *value)
{
    dn_buffer_u8(out, DN_CATALOG_FACT);
    dn_buffer_u8(out, DN_RECORD_VERSION);
    dn_buffer_blob(out, key, strlen(key));
    dn_buffer_blob(out, value, strlen(value));
}

/* ---- decoding: apply and restore ------------------------------------------------------------------------
 */

bool dn_item_scan(struct dn_reader *reader, struct dn_item_bytes *ret)
{
    size_t start = reader->offset;
    uint16_t id_length = dn_reader_u16(reader);
    uint16_t category_length = dn_reader_u16(reader);
    uint8_t flags = dn_reader_u8(reader);
    uint8_t attribute_count = dn_reader_u8(reader);
    uint32_t dim = dn_reader_u32(reader);
    (void)dn_reader_u64(reader);
    if (reader->failed || id_length < 1 || id_length > DN_ID_MAX || category_length > DN_CATEGORY_MAX ||
        (flags & ~DN_ITEM_FLAGS) != 0 || attribute_count > DN_ATTRIBUTES_MAX || dim > DN_VECTOR_DIM_MAX) {
        return false;
    }
    const uint8_t *id = dn_reader_bytes(reader, id_length);
    (void)dn_reader_bytes(reader, category_length);
    for (uint8_t i = 0; i < attribute_count && !reader->failed; i++) {
        uint16_t key_length = dn_reader_u16(reader);
        uint16_t value_length = dn_reader_u16(reader);
        if (key_length > DN_ATTRIBUTE_KEY_MAX || value_length > DN_ATTRIBUTE_VALUE_MAX) {
            return false;
        }
        (void)dn_reader_bytes(reader, key_length);
        (void)dn_reader_bytes(reader, value_length);
    }
    if (reader->failed) {
        return false;
    }
    size_t meta_length = reader->offset - start;
    const uint8_t *vector = dn_reader_bytes(reader, (size_t)dim * sizeof(float));
    if (reader->failed || meta_length > DN_ITEM_META_MAX) {
        return false;
    }
    *ret = (struct dn_item_bytes){
        .meta = reader->bytes + start,
        .meta_length = (uint32_t)meta_length,
        .vector = vector,
        .dim = dim,
        .id = (const char *)id,
        .id_length = id_length,
    };
    return true;
}

/* Fills the block's views into its own copy of the meta bytes; false when the content breaks a rule. */
static bool parse_meta(struct dn_block *block)
{
    struct dn_reader reader;
    dn_reader_init(&reader, block->meta, block->meta_length);
    block->id_length = dn_reader_u16(&reader);
    block->category_length = dn_reader_u16(&reader);
    uint8_t flags = dn_reader_u8(&reader);
    block->attribute_count = dn_reader_u8(&reader);
    (void)dn_reader_u32(&reader);
    uint64_t price_bits = dn_reader_u64(&reader);
    block->available = (flags & DN_ITEM_AVAILABLE) != 0;
    if ((flags & DN_ITEM_HAS_PRICE) != 0) {
        if ((price_bits & 0x7ff0000000000000u) == 0x7ff0000000000000u) {
            return false;
        }
        memcpy(&block->price, &price_bits, sizeof block->price);
    } else {
        if (price_bits != 0) {
            return false;
        }
        block->price = NAN;
    }
    block->id = (const char *)dn_reader_bytes(&reader, block->id_length);
    block->category = (const char *)dn_reader_bytes(&reader, block->category_length);
    for (uint16_t i = 0; i < block->attribute_count; i++) {
        struct dn_attribute *a = &block->attributes[i];
        a->key_length = dn_reader_u16(&reader);
        a->value_length = dn_reader_u16(&reader);
        a->key = (const char *)dn_reader_bytes(&reader, a->key_length);
        a->value = (const char *)dn_reader_bytes(&reader, a->value_length);
        if (reader.failed || !key_is_valid(a->key, a->key_length) ||
            !dn_utf8_valid(a->value, a->value_length)) {
            return false;
        }
        if (i > 0 && compare_text(a[-1].key, a[-1].key_length, a->key, a->key_length) >= 0) {
            return false;
        }
    }
    return !reader.failed && dn_id_valid(block->id, block->id_length) &&
           dn_utf8_valid(block->category, block->category_length);
}

struct dn_block *dn_block_make(const struct dn_item_bytes *bytes, uint64_t version)
{
    DN_ASSERT(bytes->meta_length >= ITEM_FIXED_BYTES);
    if (bytes->dim > 0 && vector_check(bytes->vector, bytes->dim) != VECTOR_FINE) {
        return NULL;
    }
    size_t attribute_count = bytes->meta[5];
    size_t head = sizeof(struct dn_block) + attribute_count * sizeof(struct dn_attribute);
    /* The id behind the head, before the vector: who looks an item up compares it, and where it has no
     * attributes the line of the cache with it was asked for (dn_state_prefetch). */
    size_t meta_at = head;
    size_t vector_at = (meta_at + bytes->meta_length + 15) / 16 * 16;
    size_t vector_bytes = (size_t)bytes->dim * sizeof(float);
    size_t size = vector_at + vector_bytes;
    struct dn_block *block = dn_must_alloc(size);
    memset(block, 0, head);
    block->size_bytes = (uint32_t)size;
    block->version = version;
    block->slot = DN_SLOT_NONE;
    block->dim = bytes->dim;
    uint8_t *meta = (uint8_t *)block + meta_at;
    memcpy(meta, bytes->meta, bytes->meta_length);
    block->meta = meta;
    block->meta_length = bytes->meta_length;
    if (bytes->dim > 0) {
        float *vector = (float *)(void *)((uint8_t *)block + vector_at);
        memcpy(vector, bytes->vector, vector_bytes);
        block->vector = vector;
        /* 0 means "no vector": a vector that hashes to it gets the neighbour. */
        uint64_t hash = dn_hash64(vector, vector_bytes, bytes->dim);
        block->vector_hash = hash != 0 ? hash : 1;
    }
    if (!parse_meta(block)) {
        free(block);
        return NULL;
    }
    block->id_hash = dn_hash64(block->id, block->id_length, 0);
    uint64_t mixed[2] = {block->version, block->vector_hash};
    block->content_hash = dn_hash64(meta, bytes->meta_length, dn_hash64(mixed, sizeof mixed, 0));
    return block;
}

void dn_block_view(const struct dn_block *block, struct dn_item *ret)
{
    *ret = (struct dn_item){
        .id = block->id,
        .id_length = block->id_length,
        .id_hash = block->id_hash,
        .vector = block->vector,
        .dim = block->dim,
        .category = block->category,
        .category_length = block->category_length,
        .price = block->price,
        .available = block->available,
        .attributes = block->attributes,
        .attribute_count = block->attribute_count,
        .slot = block->slot,
        .version = block->version,
    };
}
