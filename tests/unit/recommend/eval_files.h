/* For tests of the evaluator: small logs in a folder of their own. */
#ifndef DN_TESTS_EVAL_FILES_H
#define DN_TESTS_EVAL_FILES_H

#include "tests/unit/base/cmocka_all.h"

#include "recommend/eval_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define EVAL_FILES_MAX 8

struct eval_files {
    char folder[64];
    char paths[EVAL_FILES_MAX][128];
    size_t count;
    struct dn_eval_input input;
    struct dn_eval_set *set;
    struct dn_error err;
};

static inline int eval_files_open(void **state)
{
    struct eval_files *files = calloc(1, sizeof *files);

    assert_non_null(files);
    snprintf(files->folder, sizeof files->folder, "/tmp/dunlin_eval.XXXXXX");
    assert_non_null(mkdtemp(files->folder));
    files->input = (struct dn_eval_input){.split = 0.5, .pace_ms = 1000};
    *state = files;
    return 0;
}

static inline int eval_files_close(void **state)
{
    struct eval_files *files = *state;

    dn_eval_set_free(files->set);
    for (size_t i = 0; i < files->count; i++)
        unlink(files->paths[i]);
    rmdir(files->folder);
    free(files);
    return 0;
}

/* Writes a file, gzip where `packed`; its path stays valid. */
static inline const char *eval_file(struct eval_files *files, const void *bytes, size_t length, bool packed)
{
    assert_true(files->count < EVAL_FILES_MAX);
    char *path = files->paths[files->count];
    char name[sizeof files->paths[0]];
    snprintf(name, sizeof name, "%s/%zu", files->folder, files->count);
    memcpy(path, name, sizeof name);
    files->count++;
    gzFile file = gzopen(path, packed ? "wb" : "wbT");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)length), (int)length);
    assert_int_equal(gzclose(file), Z_OK);
    return path;
}

static inline enum dn_code eval_read(struct eval_files *files, const char *text)
{
    files->input.events = eval_file(files, text, strlen(text), false);
    dn_eval_set_free(files->set);
    files->set = NULL;
    files->err = (struct dn_error){.code = DN_OK};
    return dn_eval_read(&files->input, &files->set, &files->err);
}

static inline void eval_read_well(struct eval_files *files, const char *text)
{
    enum dn_code code = eval_read(files, text);

    if (code != DN_OK)
        fail_msg("%s: %s", dn_code_text(code), files->err.message);
}

#define EVAL_HEADER "ts\tuser\tsession\titem\ttype\tprice\n"

#endif
