/* Score: hit rate and MRR of answers against the next item of the same session, as next-item evaluation
 * counts them: consecutive repeats of an item are one, sessions with one item make no prediction, the item
 * just clicked is never a prediction. One thread. */
#ifndef DN_REPLAY_SCORE_H
#define DN_REPLAY_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dn_score;

struct dn_score_result {
    uint64_t predictions, hits;
    double reciprocal_ranks;
};

/* k: length of an answer that counts. test_from_ms: sessions that start then or later count in `test`. NULL:
 * out of memory. */
struct dn_score *dn_score_create(size_t k, int64_t test_from_ms);
void dn_score_destroy(struct dn_score *score);

/* An event happened: it is held against the last answer of its session. A pause of the key longer than gap_ms
 * starts another session; 0: a key is one session. False: out of memory. */
bool dn_score_event(struct dn_score *score, const char *key, const char *item, int64_t time_ms,
                    int64_t gap_ms);
/* The answer given after the key's last event; ids best first. */
bool dn_score_answer(struct dn_score *score, const char *key, const char *const *ids, size_t count);

/* test: sessions that start at test_from_ms or later; all: any answered prediction. */
void dn_score_result(const struct dn_score *score, struct dn_score_result *ret_test,
                     struct dn_score_result *ret_all);

#endif
