#include "recommend/tally.h"

#include <string.h>

bool dn_tally_init(struct dn_tally *tally, struct dn_arena *arena, size_t max)
{
    size_t size = 16;

    while (size < 2 * max)
        size *= 2;
    tally->table = dn_arena_zalloc(arena, size * sizeof *tally->table);
    tally->list = dn_arena_alloc(arena, (max + 1) * sizeof *tally->list);
    tally->mask = (uint32_t)(size - 1);
    tally->max = (uint32_t)max;
    tally->count = 0;
    return tally->table != NULL && tally->list != NULL;
}

/* Hoare's selection. */
float dn_nth_largest(float *values, size_t count, size_t n)
{
    size_t low = 0, high = count - 1;

    while (low < high) {
        float pivot = values[low + (high - low) / 2];
        size_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot)
                i++;
            while (values[j] < pivot)
                j--;
            if (i > j)
                break;
            float kept = values[i];
            values[i++] = values[j];
            values[j] = kept;
            if (j == 0)
                break;
            j--;
        }
        if (n <= j)
            high = j;
        else if (n >= i)
            low = i;
        else
            break;
    }
    return values[n];
}

#define FEW 64u /* are selected from at once */
#define BUCKET_BITS 11u
/* A sign, which scores do not have, then the exponent and 3 bits more. */
#define BUCKET_SHIFT (31u - BUCKET_BITS)

static uint32_t bucket_of(float score)
{
    uint32_t bits;

    memcpy(&bits, &score, sizeof bits);
    return bits >> BUCKET_SHIFT;
}

/* Scores are counted by their first bits, as in a radix sort; only where the n-th falls they are selected
 * from. */
float dn_tally_threshold(const struct dn_tally *tally, unsigned source, size_t n, float *scratch)
{
    uint32_t buckets[1u << BUCKET_BITS], cut = 0;
    size_t count = 0, above = 0, within = 0;

    for (uint32_t i = 0; i < tally->count; i++) {
        float score = tally->list[i].score[source];
        scratch[count] = score;
        if (!(score > 0))
            continue;
        count++;
    }
    if (count <= n)
        return 0;
    if (count <= FEW)
        return dn_nth_largest(scratch, count, n - 1);
    memset(buckets, 0, sizeof buckets);
    for (size_t i = 0; i < count; i++) {
        uint32_t bucket = bucket_of(scratch[i]);
        buckets[bucket]++;
        cut = bucket > cut ? bucket : cut;
    }
    for (; above + buckets[cut] < n; cut--)
        above += buckets[cut];
    for (size_t i = 0; i < count; i++) {
        scratch[within] = scratch[i];
        within += bucket_of(scratch[i]) == cut;
    }
    return dn_nth_largest(scratch, within, n - above - 1);
}
