/* The command-line client's own parsing: filters, tokens, text for terminals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"

#include <stdlib.h>
#include <string.h>

static void test_filters(void **state)
{
    struct dn_cli_filter filter;
    const Dunlin__V1__Filter *built = &filter.filter;

    (void)state;
    dn_cli_filter_init(&filter);
    assert_null(dn_cli_filter_add(&filter, "category=shoes|hats and coats"));
    assert_null(dn_cli_filter_add(&filter, "price=1..5.5"));
    assert_null(dn_cli_filter_add(&filter, "price=..5"));
    assert_null(dn_cli_filter_add(&filter, "weight=-2.."));
    assert_null(dn_cli_filter_add(&filter, "label=a..b=c"));
    assert_int_equal(built->n_terms, 5);
    assert_string_equal(built->terms[0]->name, "category");
    assert_int_equal(built->terms[0]->n_values, 2);
    assert_string_equal(built->terms[0]->values[1], "hats and coats");
    assert_true(built->terms[1]->n_values == 0 && built->terms[1]->has_min && built->terms[1]->has_max);
    assert_true(built->terms[1]->min == 1 && built->terms[1]->max == 5.5);
    assert_true(!built->terms[2]->has_min && built->terms[2]->has_max && built->terms[2]->max == 5);
    assert_true(built->terms[3]->has_min && !built->terms[3]->has_max && built->terms[3]->min == -2);
    assert_true(!built->terms[4]->has_min && !built->terms[4]->has_max); /* no numbers: a text */
    assert_string_equal(built->terms[4]->values[0], "a..b=c");
    assert_non_null(dn_cli_filter_add(&filter, "category"));
    assert_non_null(dn_cli_filter_add(&filter, "=x"));
    assert_non_null(dn_cli_filter_add(&filter, "category="));
    assert_int_equal(built->n_terms, 5);
    for (int i = 5; i < DN_CLI_FILTERS_MAX; i++)
        assert_null(dn_cli_filter_add(&filter, "a=b"));
    assert_non_null(dn_cli_filter_add(&filter, "a=b"));
    dn_cli_filter_free(&filter);
}

static void test_tokens(void **state)
{
    uint8_t bytes[4];
    size_t length = 99;
    ProtobufCBinaryData data = {.data = bytes, .len = 4};
    char *text;

    (void)state;
    assert_true(dn_cli_unhex("00ffA0b1", bytes, sizeof bytes, &length));
    assert_int_equal(length, 4);
    text = dn_cli_hex(&data);
    assert_string_equal(text, "00ffa0b1");
    free(text);
    assert_true(dn_cli_unhex("", bytes, sizeof bytes, &length));
    assert_int_equal(length, 0);
    assert_false(dn_cli_unhex("0", bytes, sizeof bytes, &length));
    assert_false(dn_cli_unhex("0x", bytes, sizeof bytes, &length));
    assert_false(dn_cli_unhex("0011223344", bytes, sizeof bytes, &length));
}

static void test_clean(void **state)
{
    char text[1000];

    (void)state;
    assert_string_equal(dn_cli_clean("a\033[2Jb\n\x7f"), "a?[2Jb??");
    assert_string_equal(dn_cli_clean("h\xc3\xa9"), "h\xc3\xa9");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_true(strlen(dn_cli_clean(text)) < 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_filters), cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_clean)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
