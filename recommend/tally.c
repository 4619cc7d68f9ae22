#include "recommend/tally.h"

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

float dn_tally_threshold(const struct dn_tally *tally, unsigned source, size_t n, float *scratch)
{
    size_t count = 0;

    for (uint32_t i = 0; i < tally->count; i++)
        if (tally->list[i].score[source] > 0)
            scratch[count++] = tally->list[i].score[source];
    return count <= n ? 0 : dn_nth_largest(scratch, count, n - 1);
}
