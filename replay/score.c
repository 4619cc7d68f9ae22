#include "replay/score.h"

#include "base/error.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 1024u /* a power of two */
#define SEED 0x73636f7265u

/* Keys and items are held as 64-bit hashes: a collision would cost one wrong prediction. */
struct track {
    uint64_t key; /* 0: free slot */
    uint64_t last_item;
    int64_t first_ms, last_ms;
    uint64_t *answer; /* k places, or NULL until the first answer */
    size_t answer_count;
    bool answered;
};

struct dn_score {
    size_t k;
    int64_t test_from_ms;
    struct track *tracks; /* open addressing, at most half full */
    size_t capacity, count;
    struct dn_score_result test, all;
};

struct dn_score *dn_score_create(size_t k, int64_t test_from_ms)
{
    struct dn_score *score = calloc(1, sizeof *score);

    DN_ASSERT(k > 0);
    if (score == NULL)
        return NULL;
    score->k = k;
    score->test_from_ms = test_from_ms;
    score->capacity = FIRST_CAPACITY;
    score->tracks = calloc(score->capacity, sizeof *score->tracks);
    if (score->tracks == NULL) {
        free(score);
        return NULL;
    }
    return score;
}

void dn_score_destroy(struct dn_score *score)
{
    if (score == NULL)
        return;
    for (size_t i = 0; i < score->capacity; i++)
        free(score->tracks[i].answer);
    free(score->tracks);
    free(score);
}

static uint64_t hash_text(const char *text)
{
    uint64_t hash = dn_hash64(text, strlen(text), SEED);

    return hash == 0 ? 1 : hash;
}

static struct track *slot_of(struct track *tracks, size_t capacity, uint64_t key)
{
    size_t at = (size_t)key & (capacity - 1);

    while (tracks[at].key != 0 && tracks[at].key != key)
        at = (at + 1) & (capacity - 1);
    return &tracks[at];
}

static bool grow(struct dn_score *score)
{
    size_t capacity = score->capacity * 2;
    struct track *tracks = calloc(capacity, sizeof *tracks);

    if (tracks == NULL)
        return false;
    for (size_t i = 0; i < score->capacity; i++)
        if (score->tracks[i].key != 0)
            *slot_of(tracks, capacity, score->tracks[i].key) = score->tracks[i];
    free(score->tracks);
    score->tracks = tracks;
    score->capacity = capacity;
    return true;
}

static void count_prediction(struct dn_score_result *result, size_t rank)
{
    result->predictions++;
    if (rank > 0) {
        result->hits++;
        result->reciprocal_ranks += 1.0 / (double)rank;
    }
}

/* 1-based rank of the item in the answer; 0: not in it. */
static size_t rank_of(const struct track *track, uint64_t item)
{
    for (size_t i = 0; i < track->answer_count; i++)
        if (track->answer[i] == item)
            return i + 1;
    return 0;
}

bool dn_score_event(struct dn_score *score, const char *key, const char *item, int64_t time_ms,
                    int64_t gap_ms)
{
    uint64_t key_hash = hash_text(key), item_hash = hash_text(item);
    struct track *track = slot_of(score->tracks, score->capacity, key_hash);

    if (track->key == 0) {
        if (score->count * 2 >= score->capacity) {
            if (!grow(score))
                return false;
            track = slot_of(score->tracks, score->capacity, key_hash);
        }
        score->count++;
        track->key = key_hash;
        track->first_ms = time_ms;
    } else if (gap_ms > 0 && time_ms - track->last_ms > gap_ms) {
        track->first_ms = time_ms;
        track->answered = false;
        track->last_item = 0;
    }
    if (track->last_item != item_hash && track->answered) {
        size_t rank = rank_of(track, item_hash);

        count_prediction(&score->all, rank);
        if (track->first_ms >= score->test_from_ms)
            count_prediction(&score->test, rank);
        track->answered = false;
    }
    track->last_item = item_hash;
    track->last_ms = time_ms;
    return true;
}

bool dn_score_answer(struct dn_score *score, const char *key, const char *const *ids, size_t count)
{
    struct track *track = slot_of(score->tracks, score->capacity, hash_text(key));

    if (track->key == 0)
        return true; /* no event of this key was told */
    if (track->answer == NULL) {
        track->answer = calloc(score->k, sizeof *track->answer);
        if (track->answer == NULL)
            return false;
    }
    track->answer_count = 0;
    for (size_t i = 0; i < count && track->answer_count < score->k; i++) {
        uint64_t item = hash_text(ids[i]);

        if (item != track->last_item)
            track->answer[track->answer_count++] = item;
    }
    track->answered = true;
    return true;
}

void dn_score_result(const struct dn_score *score, struct dn_score_result *ret_test,
                     struct dn_score_result *ret_all)
{
    *ret_test = score->test;
    *ret_all = score->all;
}
