/* What FAISS 1.7.3's C API does not offer and its C++ does: searching with parameters and a set of allowed
 * rows, depth set on the index itself, and reading and writing an index through memory. No exception leaves
 * it: functions that may fail return false and put a text into `error` (error_size bytes, always terminated).
 */
#ifndef DN_INDEX_FAISS_SHIM_H
#define DN_INDEX_FAISS_SHIM_H

#include <faiss/c_api/Index_c.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dn_faiss_kind { DN_FAISS_OTHER, DN_FAISS_IVF, DN_FAISS_HNSW };

/* OpenMP's and BLAS's thread counts to one. OpenMP's is per thread, so every thread that searches or builds
 * calls it first; later calls on the same thread cost a load. */
void dn_faiss_one_thread(void);

enum dn_faiss_kind dn_faiss_kind(const FaissIndex *index);
/* IVF: number of lists; else 0. */
size_t dn_faiss_lists(const FaissIndex *index);
/* Before training: a bounded sample for k-means. */
void dn_faiss_bound_training(FaissIndex *index, int points_per_list, int rounds);
/* IVF: lists probed; HNSW: efSearch (the member itself: the search parameters' one is not trusted, see
 * the facts on 1.7.3). Not while others search the index. */
void dn_faiss_set_depth(FaissIndex *index, size_t depth);

/* One query. lists: IVF lists to probe, 0 for the index's own depth. allowed: bitmap of rows (NULL: all). */
bool dn_faiss_search(const FaissIndex *index, const float *query, size_t k, size_t lists,
                     const uint8_t *allowed, size_t allowed_bytes, float *ret_scores, int64_t *ret_rows,
                     char *error, size_t error_size);

/* An index that keeps vectors as they are: Flat, or IVF over Flat with a Flat quantizer. */
struct dn_faiss_plain {
    size_t dim;
    size_t lists;         /* 0: Flat, one list without a centre */
    const float *centres; /* [lists][dim] */
};
/* False: of another kind. */
bool dn_faiss_as_plain(const FaissIndex *index, struct dn_faiss_plain *ret);

struct dn_faiss_list {
    size_t count;
    const int64_t *rows;  /* NULL: 0, 1, 2 ... */
    const float *vectors; /* [count][dim] */
};
/* Of a plain index; its memory. */
void dn_faiss_list_of(const FaissIndex *index, size_t list, struct dn_faiss_list *ret);

/* sink returns false to stop. */
typedef bool (*dn_faiss_sink)(void *data, const void *bytes, size_t length);
bool dn_faiss_write(const FaissIndex *index, dn_faiss_sink sink, void *data, char *error, size_t error_size);
/* The bytes must have passed a checksum of our own: FAISS trusts them. The index belongs to the caller. */
bool dn_faiss_read(const uint8_t *bytes, size_t length, FaissIndex **ret, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
