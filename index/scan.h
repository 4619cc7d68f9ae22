/* The vectors of a plain FAISS index (IVF,Flat or Flat) a second time, as numbers of 16 bits: half the memory
 * to read, and multiplied sixteen at a time. It finds rows, not scores: whoever asks scores what was found
 * from the items' own vectors.
 *
 * How it works: unit vectors are rounded to integers, and so is the query; their product is exact and fits 32
 * bits (Cauchy-Schwarz), so every build finds the same rows. It is off a cosine by some 1e-5, so what is
 * worse than the last by ten times that is found too: the exact scores choose. (With 8 bits it was .003; of
 * items that are hardly clicked, whose vectors are nearly the same, the nearest were missed.) Vectors lie in
 * blocks of eight, two numbers of each in turn, so that no sum has to be added up across a register; so do
 * the centres of IVF's lists. What is best is found by counting scores (a radix selection), without sorting.
 *
 * Never changes once made; any thread may search. */
#ifndef DN_INDEX_SCAN_H
#define DN_INDEX_SCAN_H

#include "base/arena.h"
#include "index/faiss_shim.h"

struct dn_scan;

/* NULL: the index is of another kind, its vectors are longer than 1, they are too many to be scored at once,
 * or memory is out: FAISS searches it. The index may go afterwards. */
struct dn_scan *dn_scan_make(const FaissIndex *index);
void dn_scan_free(struct dn_scan *scan);          /* NULL is allowed */
size_t dn_scan_bytes(const struct dn_scan *scan); /* NULL: 0 */
/* From now on without this machine's vector instructions, as other machines: finds the same. For tests. */
void dn_scan_plain(struct dn_scan *scan);

#define DN_SCAN_NEAR_MAX 4096u /* rows found beyond those wanted */
/* How many rows a search may find that wants so many. */
size_t dn_scan_room(size_t want);
/* Rows among which are the `want` nearest to the query's direction, in no order: those by rounded scores, and
 * what may be as near by exact ones; fewer where the lists hold fewer. lists: IVF lists to look into, at
 * least 1. allowed: bitmap of rows; NULL: all. *ret_rows has room for dn_scan_room(want). False: the arena is
 * full, or there are too many to score at once or too many that are as near: ask FAISS. */
bool dn_scan_search(const struct dn_scan *scan, const float *query, size_t want, size_t lists,
                    const uint8_t *allowed, struct dn_arena *scratch, int64_t *ret_rows, size_t *ret_count);

#endif
