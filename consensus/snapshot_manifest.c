#include "consensus/snapshot_store.h"

#include <sodium.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 2
#define LEVEL 1

static const char magic[8] = "DNSNAP2";

_Static_assert(SNAP_MANIFEST_MAX <= 256 << 10, "a manifest must fit into a record of the journal");

/* ---- chunks ----------------------------------------------------------------------------------------- */

uint64_t chunk_offset(uint32_t chunk)
{
    uint64_t offset = 0;
    for (unsigned tier = 0; tier < SNAP_TIERS; tier++) {
        uint32_t part = tier + 1 < SNAP_TIERS && chunk > SNAP_TIER_CHUNKS ? SNAP_TIER_CHUNKS : chunk;
        offset += (uint64_t)part * ((uint64_t)SNAP_CHUNK_BYTES << (2 * tier));
        chunk -= part;
    }
    return offset;
}

uint32_t chunk_bytes(const struct manifest *manifest, uint32_t chunk)
{
    uint64_t from = chunk_offset(chunk), to = chunk_offset(chunk + 1);
    DN_ASSERT(chunk < manifest->chunk_count && from < manifest->total_bytes);
    return (uint32_t)((to < manifest->total_bytes ? to : manifest->total_bytes) - from);
}

static void hash(uint8_t out[SNAP_HASH_BYTES], const void *bytes, size_t length)
{
    crypto_generichash(out, SNAP_HASH_BYTES, bytes, length, NULL, 0);
}

bool chunk_matches(const struct manifest *manifest, uint32_t chunk, const void *bytes, size_t length)
{
    uint8_t found[SNAP_HASH_BYTES];
    if (chunk >= manifest->chunk_count || length != chunk_bytes(manifest, chunk)) {
        return false;
    }
    hash(found, bytes, length);
    return memcmp(found, manifest->hashes + (size_t)chunk * SNAP_HASH_BYTES, sizeof found) == 0;
}

/* ---- manifests --------------------------------------------------------------------------------------- */

struct manifest *manifest_ref(struct manifest *manifest)
{
    manifest->refs++;
    return manifest;
}

void manifest_unref(struct manifest *manifest)
{
    if (manifest != NULL && --manifest->refs == 0) {
        free(manifest->hashes);
        free(manifest);
    }
}

static uint64_t id_of(const uint8_t digest[SNAP_HASH_BYTES])
{
    uint64_t id = 0;
    for (unsigned i = 0; i < 8; i++) {
        id |= (uint64_t)digest[i] << (8 * i);
    }
    return id;
}

void manifest_encode(struct manifest *manifest, struct dn_buffer *out)
{
    size_t start = out->length;
    uint8_t digest[SNAP_HASH_BYTES] = {0};
    dn_buffer_append(out, magic, sizeof magic);
    dn_buffer_u16(out, VERSION);
    dn_buffer_u16(out, LEVEL);
    dn_buffer_u32(out, manifest->group);
    dn_buffer_u64(out, manifest->name.index);
    dn_buffer_u64(out, manifest->name.term);
    dn_buffer_i64(out, manifest->time_ms);
    dn_buffer_u64(out, manifest->state_hash);
    dn_buffer_u64(out, manifest->total_bytes);
    dn_buffer_u32(out, manifest->chunk_count);
    dn_buffer_u32(out, 0);
    dn_buffer_u64(out, 0);
    dn_buffer_append(out, manifest->hashes, (size_t)manifest->chunk_count * SNAP_HASH_BYTES);
    if (out->failed) {
        return;
    }
    hash(digest, out->bytes + start, out->length - start);
    dn_buffer_append(out, digest, sizeof digest);
    manifest->name.id = id_of(digest);
}

enum dn_code manifest_decode(uint32_t group, const void *bytes, size_t length, struct manifest **ret,
                             struct dn_error *err)
{
    struct dn_reader reader;
    struct manifest m = {.refs = 1};
    uint8_t digest[SNAP_HASH_BYTES] = {0};
    dn_reader_init(&reader, bytes, length);
    const uint8_t *got = dn_reader_bytes(&reader, sizeof magic);
    if (got == NULL || memcmp(got, magic, sizeof magic) != 0) {
        return dn_fail(err, DN_CORRUPT, "snapshot of %zu bytes does not begin as one", length);
    }
    uint16_t version = dn_reader_u16(&reader), level = dn_reader_u16(&reader);
    if (!reader.failed && (version != VERSION || level != LEVEL)) {
        return dn_fail(err, DN_UNIMPLEMENTED, "snapshot of version %u, level %u: upgrade this program",
                       version, level);
    }
    m.group = dn_reader_u32(&reader);
    m.name.index = dn_reader_u64(&reader);
    m.name.term = dn_reader_u64(&reader);
    m.time_ms = dn_reader_i64(&reader);
    m.state_hash = dn_reader_u64(&reader);
    m.total_bytes = dn_reader_u64(&reader);
    m.chunk_count = dn_reader_u32(&reader);
    uint64_t zero = dn_reader_u32(&reader);
    zero |= dn_reader_u64(&reader);
    if (!reader.failed && dn_reader_left(&reader) >= SNAP_HASH_BYTES) {
        hash(digest, bytes, length - SNAP_HASH_BYTES);
        if (memcmp(digest, (const uint8_t *)bytes + length - SNAP_HASH_BYTES, sizeof digest) != 0) {
            return dn_fail(err, DN_CORRUPT,
                           "snapshot at index %" PRIu64 ": its manifest has a wrong checksum", m.name.index);
        }
    }
    if (reader.failed || zero != 0 || m.chunk_count > SNAP_CHUNKS_MAX ||
        dn_reader_left(&reader) != ((size_t)m.chunk_count + 1) * SNAP_HASH_BYTES) {
        return dn_fail(err, DN_CORRUPT, "snapshot manifest of %zu bytes is malformed", length);
    }
    if (m.group != group || m.name.index == 0 || m.name.term == 0 ||
        m.total_bytes > chunk_offset(m.chunk_count) ||
        (m.chunk_count == 0 ? m.total_bytes > 0 : m.total_bytes <= chunk_offset(m.chunk_count - 1))) {
        return dn_fail(err, DN_CORRUPT,
                       "snapshot of group %" PRIu32 " at index %" PRIu64 ": %" PRIu64 " bytes in %" PRIu32
                       " chunks",
                       m.group, m.name.index, m.total_bytes, m.chunk_count);
    }
    m.name.id = id_of(digest);
    struct manifest *made = malloc(sizeof *made);
    m.hashes = malloc((size_t)m.chunk_count * SNAP_HASH_BYTES + 1);
    if (made == NULL || m.hashes == NULL) {
        free(made);
        free(m.hashes);
        return dn_fail(err, DN_NO_MEMORY, "no memory for the manifest of a snapshot");
    }
    const uint8_t *hashes = dn_reader_bytes(&reader, (size_t)m.chunk_count * SNAP_HASH_BYTES);
    memcpy(m.hashes, hashes, (size_t)m.chunk_count * SNAP_HASH_BYTES);
    *made = m;
    *ret = made;
    return DN_OK;
}
