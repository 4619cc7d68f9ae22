/* The rules of a request on real services: filters as trees. */
#include "services.h"

static Dunlin__V1__RecommendResponse *recommend(Dunlin__V1__RecommendRequest *request)
{
    return CALL("Recommendations", "Recommend", RecommendResponse, recommend_response, request);
}

/* ids: those of the answer to a request for all that passes the filter, in the order of the catalogue. */
static void passes(Dunlin__V1__Filter *filter, const char *ids)
{
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    char got[400] = "";
    request.user_id = text("a stranger");
    request.k = 10;
    request.filter = filter;
    Dunlin__V1__RecommendResponse *response = recommend(&request);
    if (!response)
        fail_msg("recommend: %d %s", last_status, last_message);
    static const char *const all[] = {"red shoe",  "blue shoe", "red hat",
                                      "green hat", "no vector", "sold out"};
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < response->n_items; j++)
            if (strcmp(response->items[j]->id, all[i]) == 0)
                snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", got[0] ? "," : "", all[i]);
    FREE(response);
    assert_string_equal(got, ids);
}

static void test_filter_trees(void **state)
{
    (void)state;
    static const char path[] = "/dunlin.v1.Recommendations/Recommend";
    catalogue();
    Dunlin__V1__Filter filter = DUNLIN__V1__FILTER__INIT;
    filter.where = text("category = shoes or price > 40");
    passes(&filter, "red shoe,blue shoe,no vector");
    filter.where = text("not (brand = dune or category prefix h)");
    passes(&filter, "blue shoe");
    filter.where = text("category prefix (sh, x) and price != 20");
    passes(&filter, "red shoe");
    filter.where = text("available = false");
    passes(&filter, "");
    filter.include_unavailable = true;
    passes(&filter, "sold out");

    /* The terms alone, joined by steps, and with a text. */
    char *prefixes[] = {text("ha")};
    Dunlin__V1__FilterTerm begins = DUNLIN__V1__FILTER_TERM__INIT, cheap = DUNLIN__V1__FILTER_TERM__INIT;
    Dunlin__V1__FilterTerm *terms[] = {&begins, &cheap};
    Dunlin__V1__FilterStep steps[4], *pointers[4];
    begins.name = text("category");
    begins.n_prefixes = 1;
    begins.prefixes = prefixes;
    cheap.name = text("price");
    cheap.has_max = true;
    cheap.max = 30;
    filter = (Dunlin__V1__Filter)DUNLIN__V1__FILTER__INIT;
    filter.n_terms = 2;
    filter.terms = terms;
    passes(&filter, "red hat");
    for (size_t i = 0; i < 4; i++) {
        dunlin__v1__filter_step__init(&steps[i]);
        pointers[i] = &steps[i];
    }
    steps[1].count = 1;
    steps[2].join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_OR;
    steps[2].count = 2;
    steps[3].join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_NOT;
    filter.n_steps = 3;
    filter.steps = pointers;
    passes(&filter, "red shoe,blue shoe,red hat,green hat,no vector");
    filter.where = text("price >= 20");
    passes(&filter, "blue shoe,red hat,green hat,no vector");
    filter.n_steps = 4;
    passes(&filter, "");

    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    request.user_id = text("fay");
    request.k = 1;
    request.filter = &filter;
    filter.where = text("price >= dear");
    refused(path, &request, 3, "filter.where: at character 10: expected a number, not dear");
    filter.where = text("colour = red");
    refused(path, &request, 3, "filter: no item of the catalogue has an attribute 'colour'");
    filter.where = text("");
    steps[2].count = 3;
    refused(path, &request, 3, "filter: step 2 joins 3 results; there are 2");
    filter.n_terms = 0;
    refused(path, &request, 3, "filter: step 0: there is no term 0");
    filter.n_terms = 2;
    begins.name = text("price");
    filter.n_steps = 0;
    refused(path, &request, 3, "filter on 'price': it has no beginning");
    begins.has_max = true;
    refused(path, &request, 3, "filter.terms[0]: set either");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_filter_trees)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
