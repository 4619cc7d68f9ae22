/* Reading a NumPy .npy matrix of float32 with a file of ids beside it.
 *
 * Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html : magic, version, header
 * length, a Python dictionary literal with descr, fortran_order and shape, then the raw numbers. */
#include "index/items_file.h"

#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NPY_MAGIC "\x93NUMPY"
#define NPY_MAGIC_BYTES 6u
#define NPY_HEADER_MAX 65536u
#define NPY_AXES_MAX 4u

struct npy {
    char descr[16];
    bool fortran_order;
    uint64_t shape[NPY_AXES_MAX];
    size_t axes;
    unsigned seen; /* bit 0 descr, 1 fortran_order, 2 shape */
    uint64_t data_at;
};

/* ---- the header's dictionary
 * ---------------------------------------------------------------------------------- */

static void skip_space(const char **at)
{
    *at += strspn(*at, " \t\n\r");
}

static bool take(const char **at, char c)
{
    skip_space(at);
    if (**at != c) {
        return false;
    }
    (*at)++;
    return true;
}

static bool take_string(const char **at, char *ret, size_t size)
{
    skip_space(at);
    char quote = **at;
    if (quote != '\'' && quote != '"') {
        return false;
    }
    const char *end = strchr(*at + 1, quote);
    if (end == NULL || (size_t)(end - *at - 1) >= size) {
        return false;
    }
    size_t length = (size_t)(end - *at - 1);
    memcpy(ret, *at + 1, length);
    ret[length] = '\0';
    *at = end + 1;
    return true;
}

static bool take_word(const char **at, const char *word)
{
    skip_space(at);
    size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0) {
        return false;
    }
    *at += length;
    return true;
}

static bool take_shape(const char **at, struct npy *npy)
{
    if (!take(at, '(')) {
        return false;
    }
    npy->axes = 0;
    while (!take(at, ')')) {
        skip_space(at);
        if (**at < '0' || **at > '9' || npy->axes == NPY_AXES_MAX) {
            return false;
        }
        char *end;
        errno = 0;
        unsigned long long value = strtoull(*at, &end, 10);
        if (errno != 0) {
            return false;
        }
        npy->shape[npy->axes++] = value;
        *at = end;
        skip_space(at);
        if (!take(at, ',') && **at != ')') {
            return false;
        }
    }
    return true;
}

static bool take_entry(const char **at, struct npy *npy)
{
    char key[32];
    if (!take_string(at, key, sizeof key) || !take(at, ':')) {
        return false;
    }
    if (strcmp(key, "descr") == 0) {
        npy->seen |= 1u;
        return take_string(at, npy->descr, sizeof npy->descr);
    }
    if (strcmp(key, "fortran_order") == 0) {
        npy->seen |= 2u;
        npy->fortran_order = take_word(at, "True");
        return npy->fortran_order || take_word(at, "False");
    }
    if (strcmp(key, "shape") == 0) {
        npy->seen |= 4u;
        return take_shape(at, npy);
    }
    return false;
}

static bool parse_dictionary(const char *text, struct npy *npy)
{
    const char *at = text;
    if (!take(&at, '{')) {
        return false;
    }
    while (!take(&at, '}')) {
        if (!take_entry(&at, npy)) {
            return false;
        }
        (void)take(&at, ',');
    }
    skip_space(&at);
    return *at == '\0' && npy->seen == 7u;
}

/* ---- the file
 * --------------------------------------------------------------------------------------------------- */

static enum dn_code read_header(FILE *file, struct npy *npy, struct dn_error *err)
{
    uint8_t head[12];
    if (fread(head, 1, 8, file) != 8 || memcmp(head, NPY_MAGIC, NPY_MAGIC_BYTES) != 0) {
        return dn_fail(err, DN_INVALID, "not a .npy file: its first bytes are others");
    }
    unsigned version = head[6];
    if (version < 1 || version > 3) {
        return dn_fail(err, DN_INVALID, ".npy version %u; 1 to 3 are read", version);
    }
    size_t width = version == 1 ? 2 : 4;
    if (fread(head + 8, 1, width, file) != width) {
        return dn_fail(err, DN_INVALID, "ends inside the .npy header");
    }
    uint32_t length = (uint32_t)head[8] | (uint32_t)head[9] << 8;
    if (width == 4) {
        length |= (uint32_t)head[10] << 16 | (uint32_t)head[11] << 24;
    }
    if (length > NPY_HEADER_MAX) {
        return dn_fail(err, DN_INVALID, ".npy header of %u bytes; the most is %u", length, NPY_HEADER_MAX);
    }
    char *text = calloc(1, (size_t)length + 1);
    if (text == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    bool whole = fread(text, 1, length, file) == length;
    bool understood = whole && strlen(text) == length && parse_dictionary(text, npy);
    free(text);
    npy->data_at = 8 + width + length;
    if (!understood) {
        return dn_fail(err, DN_INVALID,
                       whole ? "the .npy header is not understood" : "ends inside the .npy header");
    }
    return DN_OK;
}

static enum dn_code check_header(FILE *file, const struct npy *npy, struct dn_error *err)
{
    if (strcmp(npy->descr, "<f4") != 0) {
        return dn_fail(err, DN_INVALID, "numbers of type '%s'; only '<f4' is read: save with .astype('<f4')",
                       npy->descr);
    }
    if (npy->axes != 2) {
        return dn_fail(err, DN_INVALID, "%zu axes; a matrix has 2: one row an item", npy->axes);
    }
    if (npy->shape[1] < 1 || npy->shape[1] > DN_VECTOR_DIM_MAX) {
        return dn_fail(err, DN_INVALID, "vectors of %" PRIu64 " numbers; 1 to %d are allowed", npy->shape[1],
                       DN_VECTOR_DIM_MAX);
    }
    struct stat about;
    if (fstat(fileno(file), &about) != 0) {
        return dn_fail(err, DN_IO, "%s", strerror(errno));
    }
    uint64_t row_bytes = npy->shape[1] * sizeof(float);
    uint64_t data_bytes = about.st_size < 0 ? 0 : (uint64_t)about.st_size - npy->data_at;
    if (npy->shape[0] > UINT64_MAX / row_bytes || npy->shape[0] * row_bytes != data_bytes) {
        return dn_fail(err, DN_INVALID,
                       "%" PRIu64 " rows of %" PRIu64 " numbers do not make the %" PRIu64
                       " bytes that follow",
                       npy->shape[0], npy->shape[1], data_bytes);
    }
    return DN_OK;
}

/* A matrix in Fortran order (what numpy saves of a factorisation) has its columns one after the other: a
 * block of rows is gathered with one read for each column, so that memory stays bounded whatever the file's
 * size. */
#define BLOCK_ROWS 1024u

struct row_reader {
    FILE *file;
    const struct npy *npy;
    float *rows;    /* one row in C order, a block of rows in Fortran order */
    float *column;  /* Fortran order: a part of one column */
    uint64_t first; /* Fortran order: row number of rows[0]; valid when filled > 0 */
    uint64_t filled;
};

static enum dn_code rows_open(struct row_reader *reader, FILE *file, const struct npy *npy)
{
    size_t rows = npy->fortran_order ? BLOCK_ROWS : 1;
    *reader = (struct row_reader){.file = file, .npy = npy};
    reader->rows = calloc(rows * npy->shape[1], sizeof *reader->rows);
    reader->column = calloc(rows, sizeof *reader->column);
    return reader->rows != NULL && reader->column != NULL ? DN_OK : DN_NO_MEMORY;
}

static void rows_close(struct row_reader *reader)
{
    free(reader->rows);
    free(reader->column);
}

static enum dn_code fill_block(struct row_reader *reader, uint64_t row, struct dn_error *err)
{
    const struct npy *npy = reader->npy;
    uint64_t left = npy->shape[0] - row, dim = npy->shape[1];
    uint64_t count = left < BLOCK_ROWS ? left : BLOCK_ROWS;
    for (uint64_t c = 0; c < dim; c++) {
        uint64_t at = npy->data_at + (c * npy->shape[0] + row) * sizeof(float);
        ssize_t got = pread(fileno(reader->file), reader->column, count * sizeof(float), (off_t)at);
        if (got < 0 || (uint64_t)got != count * sizeof(float)) {
            return dn_fail(err, DN_IO, "column %" PRIu64 ": %s", c + 1,
                           got < 0 ? strerror(errno) : "the file ends");
        }
        for (uint64_t i = 0; i < count; i++) {
            reader->rows[i * dim + c] = reader->column[i];
        }
    }
    reader->first = row;
    reader->filled = count;
    return DN_OK;
}

/* Rows are asked for in order. *ret_vector is valid until the next call. */
static enum dn_code rows_next(struct row_reader *reader, uint64_t row, const float **ret_vector,
                              struct dn_error *err)
{
    size_t dim = (size_t)reader->npy->shape[1];
    if (!reader->npy->fortran_order) {
        if (fread(reader->rows, sizeof *reader->rows, dim, reader->file) != dim) {
            return dn_fail(err, DN_IO, "row %" PRIu64 ": %s", row + 1,
                           ferror(reader->file) ? strerror(errno) : "the file ends");
        }
        *ret_vector = reader->rows;
        return DN_OK;
    }
    if (reader->filled == 0 || row >= reader->first + reader->filled) {
        enum dn_code code = fill_block(reader, row, err);
        if (code != DN_OK) {
            return code;
        }
    }
    *ret_vector = reader->rows + (row - reader->first) * dim;
    return DN_OK;
}

static enum dn_code read_rows(FILE *file, const char *path, const struct npy *npy, struct dn_lines *ids,
                              dn_item_callback each, void *data, struct dn_error *err)
{
    uint32_t dim = (uint32_t)npy->shape[1];
    const float *vector = NULL;
    struct row_reader reader;
    enum dn_code code = rows_open(&reader, file, npy);
    if (code != DN_OK) {
        code = dn_fail(err, code, "%s: out of memory", path);
    }
    for (uint64_t row = 0; row < npy->shape[0] && code == DN_OK; row++) {
        code = dn_lines_next(ids, err);
        if (code == DN_NOT_FOUND) {
            code = dn_fail(err, DN_INVALID, "%s: has %" PRIu64 " ids for %" PRIu64 " rows of %s", ids->path,
                           row, npy->shape[0], path);
        } else if (code == DN_OK && (code = rows_next(&reader, row, &vector, err)) != DN_OK) {
            code = dn_wrap(err, code, "%s", path);
        }
        if (code != DN_OK) {
            break;
        }
        if (ids->length > DN_ID_MAX) {
            code = dn_fail(err, DN_INVALID, "%s: line %" PRIu64 ": the id has %zu bytes; the most is %d",
                           ids->path, ids->number, ids->length, DN_ID_MAX);
            break;
        }
        struct dn_item item = {
            .id = ids->bytes,
            .id_length = (uint16_t)ids->length,
            .vector = vector,
            .dim = dim,
            .category = "",
            .price = NAN,
            .available = true,
        };
        char where[32];
        snprintf(where, sizeof where, "row %" PRIu64, row + 1);
        code = dn_items_give(path, where, &item, each, data, err);
    }
    rows_close(&reader);
    if (code != DN_OK) {
        return code;
    }
    code = dn_lines_next(ids, err);
    if (code == DN_OK) {
        return dn_fail(err, DN_INVALID, "%s: has more ids than the %" PRIu64 " rows of %s", ids->path,
                       npy->shape[0], path);
    }
    return code == DN_NOT_FOUND ? DN_OK : code;
}

enum dn_code dn_items_read_npy(const char *path, const char *ids_path, dn_item_callback each, void *data,
                               struct dn_error *err)
{
    if (ids_path == NULL) {
        return dn_fail(err, DN_INVALID, "%s: a .npy file needs a file of ids, one a line", path);
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return dn_fail(err, errno == ENOENT ? DN_NOT_FOUND : DN_IO, "%s: %s", path, strerror(errno));
    }
    struct npy npy = {.axes = 0};
    struct dn_lines ids = {0};
    enum dn_code code = read_header(file, &npy, err);
    if (code == DN_OK) {
        code = check_header(file, &npy, err);
    }
    if (code != DN_OK) {
        code = dn_wrap(err, code, "%s", path);
        goto out;
    }
    code = dn_lines_open(&ids, ids_path, err);
    if (code == DN_OK) {
        code = read_rows(file, path, &npy, &ids, each, data, err);
        dn_lines_close(&ids);
    }
out:
    fclose(file);
    return code;
}
