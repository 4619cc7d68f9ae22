// The C face of what only FAISS's C++ offers. See faiss_shim.h.
#include "index/faiss_shim.h"

#include <faiss/Index.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

#include <omp.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <typeinfo>

extern "C" void openblas_set_num_threads(int) __attribute__((weak));

namespace
{

const faiss::Index *cpp(const FaissIndex *index)
{
    return reinterpret_cast<const faiss::Index *>(index);
}

faiss::Index *cpp(FaissIndex *index)
{
    return reinterpret_cast<faiss::Index *>(index);
}

// The index that does the searching, behind any transforms.
const faiss::Index *inner(const faiss::Index *index)
{
    while (auto *transform = dynamic_cast<const faiss::IndexPreTransform *>(index)) {
        index = transform->index;
    }
    return index;
}

void say(char *error, size_t error_size, const char *text)
{
    std::snprintf(error, error_size, "%s", text);
}

struct Sink : faiss::IOWriter {
    dn_faiss_sink sink;
    void *data;
    Sink(dn_faiss_sink sink_, void *data_) : sink(sink_), data(data_)
    {
    }
    size_t operator()(const void *ptr, size_t size, size_t nitems) override
    {
        if (size != 0 && nitems > SIZE_MAX / size) {
            return 0;
        }
        return sink(data, ptr, size * nitems) ? nitems : 0;
    }
};

struct Source : faiss::IOReader {
    const uint8_t *bytes;
    size_t left;
    Source(const uint8_t *bytes_, size_t length) : bytes(bytes_), left(length)
    {
    }
    size_t operator()(void *ptr, size_t size, size_t nitems) override
    {
        if (size == 0 || nitems == 0) {
            return 0;
        }
        if (nitems > left / size) {
            nitems = left / size;
        }
        std::memcpy(ptr, bytes, size * nitems);
        bytes += size * nitems;
        left -= size * nitems;
        return nitems;
    }
};

void search(const faiss::Index *index, const float *query, size_t k, size_t lists, const uint8_t *allowed,
            size_t allowed_bytes, float *scores, int64_t *rows)
{
    auto count = static_cast<faiss::Index::idx_t>(k);
    if (lists == 0 && allowed == nullptr) {
        index->search(1, query, count, scores, rows);
        return;
    }
    faiss::IDSelectorBitmap selector(allowed_bytes, allowed);
    faiss::IDSelector *sel = allowed != nullptr ? &selector : nullptr;
    const faiss::Index *core = inner(index);
    faiss::SearchParameters plain;
    faiss::SearchParametersIVF ivf;
    faiss::SearchParametersHNSW hnsw;
    faiss::SearchParameters *params = &plain;
    if (auto *as_ivf = dynamic_cast<const faiss::IndexIVF *>(core)) {
        ivf.nprobe = lists != 0 ? lists : as_ivf->nprobe;
        ivf.max_codes = as_ivf->max_codes;
        params = &ivf;
    } else if (auto *as_hnsw = dynamic_cast<const faiss::IndexHNSW *>(core)) {
        hnsw.efSearch = as_hnsw->hnsw.efSearch;
        hnsw.check_relative_distance = as_hnsw->hnsw.check_relative_distance;
        params = &hnsw;
    }
    params->sel = sel;
    faiss::SearchParametersPreTransform outer;
    outer.index_params = params;
    index->search(1, query, count, scores, rows, core == index ? params : &outer);
}

} // namespace

void dn_faiss_one_thread(void)
{
    static thread_local bool done = false;
    if (!done) {
        omp_set_num_threads(1);
        if (openblas_set_num_threads != nullptr) {
            openblas_set_num_threads(1);
        }
        done = true;
    }
}

enum dn_faiss_kind dn_faiss_kind(const FaissIndex *index)
{
    const faiss::Index *core = inner(cpp(index));
    if (dynamic_cast<const faiss::IndexIVF *>(core) != nullptr) {
        return DN_FAISS_IVF;
    }
    return dynamic_cast<const faiss::IndexHNSW *>(core) != nullptr ? DN_FAISS_HNSW : DN_FAISS_OTHER;
}

size_t dn_faiss_lists(const FaissIndex *index)
{
    auto *ivf = dynamic_cast<const faiss::IndexIVF *>(inner(cpp(index)));
    return ivf != nullptr ? ivf->nlist : 0;
}

void dn_faiss_bound_training(FaissIndex *index, int points_per_list, int rounds)
{
    auto *ivf = dynamic_cast<faiss::IndexIVF *>(const_cast<faiss::Index *>(inner(cpp(index))));
    if (ivf != nullptr) {
        ivf->cp.max_points_per_centroid = points_per_list;
        ivf->cp.min_points_per_centroid = 1; // no warning on standard error
        ivf->cp.niter = rounds;
    }
}

void dn_faiss_set_depth(FaissIndex *index, size_t depth)
{
    auto *core = const_cast<faiss::Index *>(inner(cpp(index)));
    if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(core)) {
        ivf->nprobe = depth;
    } else if (auto *hnsw = dynamic_cast<faiss::IndexHNSW *>(core)) {
        hnsw->hnsw.efSearch = static_cast<int>(depth);
    }
}

bool dn_faiss_search(const FaissIndex *index, const float *query, size_t k, size_t lists,
                     const uint8_t *allowed, size_t allowed_bytes, float *ret_scores, int64_t *ret_rows,
                     char *error, size_t error_size)
{
    try {
        search(cpp(index), query, k, lists, allowed, allowed_bytes, ret_scores, ret_rows);
        return true;
    } catch (const std::exception &e) {
        say(error, error_size, e.what());
    } catch (...) {
        say(error, error_size, "unknown failure inside FAISS");
    }
    return false;
}

bool dn_faiss_as_plain(const FaissIndex *index, struct dn_faiss_plain *ret)
{
    const faiss::Index *whole = cpp(index);
    if (whole->metric_type != faiss::METRIC_INNER_PRODUCT) {
        return false;
    }
    *ret = {static_cast<size_t>(whole->d), 0, nullptr};
    if (typeid(*whole) == typeid(faiss::IndexFlatIP) || typeid(*whole) == typeid(faiss::IndexFlat)) {
        return true;
    }
    if (typeid(*whole) != typeid(faiss::IndexIVFFlat)) {
        return false; // IndexIVFFlatDedup among others
    }
    auto *ivf = static_cast<const faiss::IndexIVFFlat *>(whole);
    auto *centres = dynamic_cast<const faiss::IndexFlat *>(ivf->quantizer);
    if (centres == nullptr || static_cast<size_t>(centres->ntotal) != ivf->nlist) {
        return false;
    }
    ret->lists = ivf->nlist;
    ret->centres = centres->get_xb();
    return true;
}

void dn_faiss_list_of(const FaissIndex *index, size_t list, struct dn_faiss_list *ret)
{
    if (auto *ivf = dynamic_cast<const faiss::IndexIVFFlat *>(cpp(index))) {
        *ret = {ivf->invlists->list_size(list), ivf->invlists->get_ids(list),
                reinterpret_cast<const float *>(ivf->invlists->get_codes(list))};
    } else {
        auto *flat = static_cast<const faiss::IndexFlat *>(cpp(index));
        *ret = {static_cast<size_t>(flat->ntotal), nullptr, flat->get_xb()};
    }
}

bool dn_faiss_write(const FaissIndex *index, dn_faiss_sink sink, void *data, char *error, size_t error_size)
{
    try {
        Sink writer(sink, data);
        faiss::write_index(cpp(index), &writer);
        return true;
    } catch (const std::exception &e) {
        say(error, error_size, e.what());
    } catch (...) {
        say(error, error_size, "unknown failure inside FAISS");
    }
    return false;
}

bool dn_faiss_read(const uint8_t *bytes, size_t length, FaissIndex **ret, char *error, size_t error_size)
{
    try {
        Source reader(bytes, length);
        std::unique_ptr<faiss::Index> index(faiss::read_index(&reader));
        if (index == nullptr || reader.left != 0) {
            say(error, error_size, "the index does not end where its bytes end");
            return false;
        }
        *ret = reinterpret_cast<FaissIndex *>(index.release());
        return true;
    } catch (const std::exception &e) {
        say(error, error_size, e.what());
    } catch (...) {
        say(error, error_size, "unknown failure inside FAISS");
    }
    return false;
}
