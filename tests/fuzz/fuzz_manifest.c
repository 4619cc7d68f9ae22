/* Manifests of snapshots (consensus/snapshot_store.h), as they are and with their digest put right. */
#include "base/error.h"
#include "consensus/snapshot_store.h"
#include "tests/fuzz/fuzz.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define GROUP 3u

const unsigned dn_fuzz_runs = 500000;

static void decode(const uint8_t *bytes, size_t length)
{
    struct manifest *manifest = NULL;
    struct dn_error err;
    if (manifest_decode(GROUP, bytes, length, &manifest, &err) != DN_OK) {
        return;
    }
    uint64_t total = 0;
    for (uint32_t chunk = 0; chunk < manifest->chunk_count; chunk++) {
        DN_ASSERT(chunk_offset(chunk) == total);
        DN_ASSERT(chunk_bytes(manifest, chunk) > 0 && chunk_bytes(manifest, chunk) <= SNAP_CHUNK_MAX);
        total += chunk_bytes(manifest, chunk);
        (void)chunk_matches(manifest, chunk, "x", 1);
    }
    DN_ASSERT(total == manifest->total_bytes);
    struct dn_buffer again;
    dn_buffer_init(&again, SNAP_MANIFEST_MAX);
    manifest_encode(manifest, &again);
    DN_ASSERT(!again.failed && again.length == length && memcmp(again.bytes, bytes, length) == 0);
    dn_buffer_free(&again);
    manifest_unref(manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    decode(bytes, length);
    if (length < SNAP_HASH_BYTES) {
        return 0;
    }
    uint8_t *forged = malloc(length);
    DN_ASSERT(forged != NULL);
    memcpy(forged, bytes, length);
    DN_ASSERT(crypto_generichash(forged + length - SNAP_HASH_BYTES, SNAP_HASH_BYTES, bytes,
                                 length - SNAP_HASH_BYTES, NULL, 0) == 0);
    decode(forged, length);
    free(forged);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static uint8_t hashes[SNAP_HASH_BYTES * 64];
    static const uint64_t totals[] = {1, SNAP_CHUNK_BYTES, SNAP_CHUNK_BYTES + 1,
                                      40ull * SNAP_CHUNK_BYTES - 7};
    struct dn_buffer bytes;
    if (n >= sizeof totals / sizeof *totals) {
        return 0;
    }
    struct manifest manifest = {
        .refs = 1,
        .group = GROUP,
        .name = {.index = 1000 + n, .term = 7},
        .time_ms = 1700000000000,
        .state_hash = 42,
        .total_bytes = totals[n],
        .chunk_count = (uint32_t)((totals[n] + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES),
        .hashes = hashes,
    };
    dn_buffer_init(&bytes, max);
    manifest_encode(&manifest, &bytes);
    DN_ASSERT(!bytes.failed);
    size_t length = bytes.length;
    memcpy(out, bytes.bytes, length);
    dn_buffer_free(&bytes);
    return length;
}
