/* The file readers: what they give, what they refuse and how they say it, and damaged files. */
#include "support.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/dunlin-items-XXXXXX";

static int make_folder(void **unused)
{
    (void)unused;
    return mkdtemp(folder) == NULL;
}

static int drop_folder(void **unused)
{
    (void)unused;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        (void)unlink(path);
    }
    closedir(dir);
    return rmdir(folder);
}

static const char *file_with(const char *name, const void *bytes, size_t length)
{
    static char paths[2][128];
    static unsigned turn;
    char *path = paths[turn++ % 2];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    fclose(file);
    return path;
}

struct seen {
    size_t count, stop_after;
    struct dn_buffer items; /* as an upsert record would hold them: comparable */
    char last_id[DN_ID_MAX + 1];
};

static enum dn_code see(void *data, const struct dn_item *item, struct dn_error *err)
{
    struct seen *seen = data;
    if (seen->stop_after != 0 && seen->count == seen->stop_after) {
        return dn_fail(err, DN_NOT_FOUND, "enough");
    }
    seen->count++;
    memcpy(seen->last_id, item->id, item->id_length);
    seen->last_id[item->id_length] = '\0';
    dn_catalog_record_upsert(&seen->items, item, 1);
    return DN_OK;
}

static enum dn_code read_it(const char *path, const char *ids, struct seen *seen, struct dn_error *err)
{
    size_t stop_after = seen->stop_after;
    *seen = (struct seen){.stop_after = stop_after};
    *err = (struct dn_error){0};
    dn_buffer_init(&seen->items, 64u << 20);
    enum dn_code code = dn_items_read(path, ids, see, seen, err);
    return code;
}

static void expect_refused(const char *path, const char *ids, const char *first, const char *second)
{
    struct seen seen = {0};
    struct dn_error err;
    assert_int_equal(read_it(path, ids, &seen, &err), DN_INVALID);
    if (strstr(err.message, first) == NULL || strstr(err.message, second) == NULL ||
        strstr(err.message, folder) == NULL) {
        fail_msg("'%s' does not say '%s' and '%s'", err.message, first, second);
    }
    dn_buffer_free(&seen.items);
}

/* ---- JSON lines
 * ------------------------------------------------------------------------------------------------ */

static void test_jsonl(void **unused)
{
    (void)unused;
    const char text[] =
        "{\"id\":\"a\",\"vector\":[1,2,-0.5],\"category\":\"x\",\"price\":1.5,\"available\":false,"
        "\"attributes\":{\"k\":\"v\",\"b\":\"\"}}\n"
        "\n"
        "{\"id\":\"b\"}\r\n"
        "{\"id\":\"\\u00e9\",\"vector\":[3,4,0]}"; /* no newline at the end */
    struct seen seen = {0};
    struct dn_error err;
    assert_int_equal(read_it(file_with("a.jsonl", text, strlen(text)), NULL, &seen, &err), DN_OK);
    assert_int_equal(seen.count, 3);
    assert_string_equal(seen.last_id, "\xc3\xa9");
    float first[3] = {1, 2, -0.5f}, third[3] = {3, 4, 0};
    struct dn_attribute attributes[2] = {attribute("k", "v"), attribute("b", "")};
    struct dn_item items[3] = {plain_item("a", first, 3), plain_item("b", NULL, 0),
                               plain_item("\xc3\xa9", third, 3)};
    items[0].category = "x";
    items[0].category_length = 1;
    items[0].price = 1.5;
    items[0].available = false;
    items[0].attributes = attributes;
    items[0].attribute_count = 2;
    struct dn_buffer want;
    dn_buffer_init(&want, 1u << 20);
    for (int i = 0; i < 3; i++) {
        dn_catalog_record_upsert(&want, &items[i], 1);
    }
    assert_int_equal(want.length, seen.items.length);
    assert_memory_equal(want.bytes, seen.items.bytes, want.length);
    dn_buffer_free(&want);
    dn_buffer_free(&seen.items);
    /* The callback stops the reading; its code comes back, even one that the reader uses itself. */
    seen.stop_after = 1;
    assert_int_equal(read_it(file_with("a.jsonl", text, strlen(text)), NULL, &seen, &err), DN_NOT_FOUND);
    assert_int_equal(seen.count, 1);
    assert_string_equal(err.message, "enough");
    dn_buffer_free(&seen.items);
}

static void expect_line_refused(const char *line, const char *part)
{
    char text[600];
    snprintf(text, sizeof text, "{\"id\":\"fine\"}\n%s\n", line);
    expect_refused(file_with("bad.jsonl", text, strlen(text)), NULL, "line 2", part);
}

static void test_jsonl_refused(void **unused)
{
    (void)unused;
    expect_line_refused("{\"id\":\"a\"", "'}'");
    expect_line_refused("[1]", "not a JSON object");
    expect_line_refused("{}", "\"id\" is missing");
    expect_line_refused("{\"id\":7}", "\"id\" must be a string");
    expect_line_refused("{\"id\":\"\"}", "1 to 256");
    expect_line_refused("{\"id\":\"a\",\"id\":\"b\"}", "duplicate");
    expect_line_refused("{\"id\":\"a\",\"colour\":\"b\"}", "unknown key \"colour\"");
    expect_line_refused("{\"id\":\"a\",\"vector\":[]}", "1 to 2048");
    expect_line_refused("{\"id\":\"a\",\"vector\":[1,\"2\"]}", "element 1");
    expect_line_refused("{\"id\":\"a\",\"vector\":[0,0]}", "zeros");
    expect_line_refused("{\"id\":\"a\",\"vector\":[1e300]}", "infinite");
    expect_line_refused("{\"id\":\"a\",\"price\":\"1\"}", "\"price\"");
    expect_line_refused("{\"id\":\"a\",\"available\":1}", "\"available\"");
    expect_line_refused("{\"id\":\"a\",\"attributes\":[]}", "\"attributes\"");
    expect_line_refused("{\"id\":\"a\",\"attributes\":{\"k\":1}}", "\"k\" must be a string");
    expect_line_refused("{\"id\":\"a\",\"attributes\":{\"price\":\"1\"}}", "built in");
    expect_line_refused("{\"id\":\"\xff\"}", "decode byte 0xff");
    size_t length = (1u << 20) + 100;
    char *big = malloc(length);
    memset(big, ' ', length);
    expect_refused(file_with("big.jsonl", big, length), NULL, "line 1", "longer than");
    free(big);
    expect_refused(file_with("a.csv", "a", 1), NULL, ".jsonl, .npy or .vec", "a.csv");
    expect_refused(file_with("b.jsonl", "", 0), "ids", "file of ids", "b.jsonl");
    struct seen seen = {0};
    struct dn_error err;
    assert_int_equal(read_it("/nowhere/at/all.jsonl", NULL, &seen, &err), DN_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nowhere/at/all.jsonl"));
    assert_int_equal(read_it(file_with("empty.jsonl", "", 0), NULL, &seen, &err), DN_OK);
    assert_int_equal(seen.count, 0);
}

/* ---- fastText
 * ---------------------------------------------------------------------------------------------------- */

static void test_vec(void **unused)
{
    (void)unused;
    const char text[] = "3 3\n</s> 0 0 0\nthe 1 0 0 \nna\xc3\xafve -1.5e0 2 3\n";
    struct seen seen = {0};
    struct dn_error err;
    assert_int_equal(read_it(file_with("a.vec", text, strlen(text)), NULL, &seen, &err), DN_OK);
    assert_int_equal(seen.count, 2);
    assert_string_equal(seen.last_id, "na\xc3\xafve");
    dn_buffer_free(&seen.items);
    const struct {
        const char *text, *first, *second;
    } wrong[] = {
        {"", "line 1", "count dim"},
        {"2\n", "line 1", "count dim"},
        {"2 0\n", "line 1", "count dim"},
        {"2 3000\n", "line 1", "count dim"},
        {"-2 3\n", "line 1", "count dim"},
        {"2 3\na 1 2 3\n", "ends after 1", "2"},
        {"1 3\na 1 2 3\nb 1 2 3\n", "line 3", "more vectors"},
        {"1 3\na 1 2\n", "line 2", "2 numbers, not 3"},
        {"1 3\na 1 2 3 4\n", "line 2", "4 numbers, not 3"},
        {"1 3\na 1 2 x\n", "line 2", "number 3"},
        {"1 3\na 1 2 nan\n", "line 2", "NaN"},
        {"1 3\na 0 0 0\n", "line 2", "zeros"},
        {"1 3\n a 1 2\n", "line 2", "id"},
        {"1 3\na\n", "line 2", "id"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_refused(file_with("bad.vec", wrong[i].text, strlen(wrong[i].text)), NULL, wrong[i].first,
                       wrong[i].second);
    }
}

/* ---- NumPy
 * ---------------------------------------------------------------------------------------------------------
 */

static size_t make_npy(uint8_t *out, unsigned version, const char *dictionary, const float *numbers,
                       size_t count)
{
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version;
    out[7] = 0;
    size_t at = version == 1 ? 10 : 12, length = strlen(dictionary);
    memset(out + 8, 0, at - 8);
    out[8] = (uint8_t)(length & 255);
    out[9] = (uint8_t)(length >> 8);
    memcpy(out + at, dictionary, length);
    if (count > 0) {
        memcpy(out + at + length, numbers, count * sizeof *numbers);
    }
    return at + length + count * sizeof *numbers;
}

#define DICTIONARY "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n"

static void test_npy(void **unused)
{
    (void)unused;
    const float numbers[6] = {1, 2, 3, 4, 5, 6};
    uint8_t bytes[400];
    struct seen seen = {0};
    struct dn_error err;
    for (unsigned version = 1; version <= 3; version++) {
        size_t length = make_npy(bytes, version, DICTIONARY, numbers, 6);
        const char *path = file_with("a.npy", bytes, length);
        const char *ids = file_with("ids", "one\ntwo\n", 8);
        if (read_it(path, ids, &seen, &err) != DN_OK) {
            fail_msg("%s", err.message);
        }
        assert_int_equal(seen.count, 2);
        assert_string_equal(seen.last_id, "two");
        dn_buffer_free(&seen.items);
    }
    size_t length =
        make_npy(bytes, 1, "{\"shape\":(0,3),\"descr\":\"<f4\",\"fortran_order\":False}", NULL, 0);
    assert_int_equal(read_it(file_with("none.npy", bytes, length), file_with("ids", "", 0), &seen, &err),
                     DN_OK);
    assert_int_equal(seen.count, 0);
}

#define FORTRAN_ROWS 2500u /* more than two blocks of the reader */

static enum dn_code check_fortran_row(void *data, const struct dn_item *item, struct dn_error *err)
{
    unsigned *row = data;
    (void)err;
    assert_int_equal(item->dim, 3);
    for (unsigned c = 0; c < 3; c++) {
        assert_true(item->vector[c] == (float)(*row * 10 + c + 1));
    }
    (*row)++;
    return DN_OK;
}

/* numpy saves a factorisation column by column: the rows must come out all the same. */
static void test_npy_fortran_order(void **unused)
{
    (void)unused;
    static float numbers[3 * FORTRAN_ROWS];
    static uint8_t bytes[sizeof numbers + 400];
    static char ids[FORTRAN_ROWS * 8];
    size_t ids_length = 0;
    unsigned row = 0;
    struct dn_error err;
    for (unsigned r = 0; r < FORTRAN_ROWS; r++) {
        for (unsigned c = 0; c < 3; c++) {
            numbers[c * FORTRAN_ROWS + r] = (float)(r * 10 + c + 1);
        }
        ids_length += (size_t)snprintf(ids + ids_length, sizeof ids - ids_length, "i%u\n", r);
    }
    size_t length = make_npy(bytes, 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2500, 3), }",
                             numbers, 3 * FORTRAN_ROWS);
    assert_int_equal(dn_items_read(file_with("f.npy", bytes, length), file_with("ids", ids, ids_length),
                                   check_fortran_row, &row, &err),
                     DN_OK);
    assert_int_equal(row, FORTRAN_ROWS);
}

static void expect_npy_refused(const char *dictionary, size_t count, const char *ids, const char *part)
{
    const float numbers[6] = {1, 2, 3, 4, 5, 6};
    uint8_t bytes[400];
    size_t length = make_npy(bytes, 1, dictionary, numbers, count);
    const char *path = file_with("bad.npy", bytes, length);
    expect_refused(path, ids != NULL ? file_with("ids", ids, strlen(ids)) : NULL, part, "bad.npy");
}

static void test_npy_refused(void **unused)
{
    (void)unused;
    const char *two = "one\ntwo\n";
    expect_npy_refused(DICTIONARY, 6, NULL, "needs a file of ids");
    expect_npy_refused(DICTIONARY, 6, "one\n", "1 ids for 2 rows");
    expect_npy_refused(DICTIONARY, 6, "one\ntwo\nthree\n", "more ids");
    expect_npy_refused(DICTIONARY, 6, "one\n\n", "id must be");
    expect_npy_refused(DICTIONARY, 5, two, "do not make the 20 bytes");
    expect_npy_refused("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", 6, two, "'<f4'");
    expect_npy_refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 6, two, "'<f4'");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 5, two, "do not make");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 6, two, "1 axes");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }", 6, two, "3 axes");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0), }", 0, two, "vectors of 0");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999), }", 6, two, "99999");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3), }", 6,
                       two, "not understood");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6148914691236517206, 3), }", 6,
                       two, "do not make");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, }", 6, two, "not understood");
    expect_npy_refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", 6, two,
                       "not understood");
    expect_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", 6, two,
                       "not understood");
    expect_npy_refused("", 6, two, "not understood");
    expect_refused(file_with("bad.npy", "PK\3\4 this is a zip", 18), "ids", "not a .npy file", "bad.npy");
    expect_refused(file_with("bad.npy", "\x93NUMPY\1\0\xff\xff{", 11), "ids", "ends inside", "bad.npy");
    expect_refused(file_with("bad.npy", "\x93NUMPY\2\0\xff\xff\xff\xff{", 13), "ids", "the most is",
                   "bad.npy");
    expect_refused(file_with("bad.npy", "\x93NUMPY\7\0\1\0{", 11), "ids", "version 7", "bad.npy");
}

/* ---- damage
 * ----------------------------------------------------------------------------------------------------------
 */

/* Whatever the bytes, reading ends, with items that pass the check or with an error that names the file. */
static void damage(const char *name, const char *ids, const uint8_t *good, size_t good_length, uint64_t seed)
{
    struct rng rng = {.state = seed};
    for (int i = 0; i < 1500; i++) {
        uint8_t bytes[700];
        size_t length = good_length;
        memcpy(bytes, good, length);
        for (uint32_t flips = 1 + rng_below(&rng, 4); flips > 0; flips--) {
            bytes[rng_below(&rng, (uint32_t)length)] = (uint8_t)rng_next(&rng);
        }
        if (rng_below(&rng, 3) == 0) {
            length = rng_below(&rng, (uint32_t)length) + 1;
        }
        struct seen seen = {0};
        struct dn_error err;
        enum dn_code code = read_it(file_with(name, bytes, length), ids, &seen, &err);
        if (code != DN_OK && (code != DN_INVALID || strstr(err.message, folder) == NULL)) {
            fail_msg("seed %llu round %d: code %d '%s'", (unsigned long long)seed, i, (int)code, err.message);
        }
        dn_buffer_free(&seen.items);
    }
}

static void test_damage(void **unused)
{
    (void)unused;
    const char json[] =
        "{\"id\":\"a\",\"vector\":[1,2,-0.5],\"category\":\"x\",\"price\":1.5,\"available\":false,"
        "\"attributes\":{\"k\":\"v\"}}\n{\"id\":\"b\",\"price\":3}\n";
    damage("damaged.jsonl", NULL, (const uint8_t *)json, strlen(json), 1);
    const char vec[] = "3 3\none 1 0 0\ntwo 0.25 1 2\nthree -1e3 2 1\n";
    damage("damaged.vec", NULL, (const uint8_t *)vec, strlen(vec), 2);
    const float numbers[6] = {1, 2, 3, 4, 5, 6};
    uint8_t bytes[400];
    char ids[128];
    snprintf(ids, sizeof ids, "%s", file_with("two-ids", "one\ntwo\n", 8));
    damage("damaged.npy", ids, bytes, make_npy(bytes, 1, DICTIONARY, numbers, 6), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jsonl),
        cmocka_unit_test(test_jsonl_refused),
        cmocka_unit_test(test_vec),
        cmocka_unit_test(test_npy),
        cmocka_unit_test(test_npy_fortran_order),
        cmocka_unit_test(test_npy_refused),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
