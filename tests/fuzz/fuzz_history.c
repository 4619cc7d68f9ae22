/* Histories in EDN: what is taken is written and read again, and must come out the same. */
#include "base/error.h"
#include "chaos/history.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 100000;

static struct chaos_history *read_bytes(const char *bytes, size_t length)
{
    struct chaos_history *history = NULL;
    struct dn_error err;
    FILE *in = fmemopen((void *)(uintptr_t)bytes, length, "r");
    DN_ASSERT(in != NULL);
    enum dn_code code = chaos_history_read(in, "input", &history, &err);
    DN_ASSERT((code == DN_OK) == (history != NULL));
    DN_ASSERT(code == DN_OK || strncmp(err.message, "input: line ", 12) == 0);
    fclose(in);
    return history;
}

static char *write_bytes(const struct chaos_history *history, size_t *ret_length)
{
    char *bytes = NULL;
    FILE *out = open_memstream(&bytes, ret_length);
    DN_ASSERT(out != NULL && chaos_history_write(history, out, NULL) == DN_OK);
    fclose(out);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct chaos_history *history = length > 0 ? read_bytes((const char *)bytes, length) : NULL;
    if (history == NULL) {
        return 0;
    }
    size_t first_length = 0, again_length = 0;
    char *first = write_bytes(history, &first_length);
    if (first_length > 0) {
        struct chaos_history *twin = read_bytes(first, first_length);
        DN_ASSERT(twin != NULL && chaos_history_count(twin) == chaos_history_count(history));
        char *again = write_bytes(twin, &again_length);
        DN_ASSERT(first_length == again_length && memcmp(first, again, first_length) == 0);
        for (size_t i = 0; i < chaos_history_count(twin); i++) {
            DN_ASSERT(chaos_history_pair(twin, i) == chaos_history_pair(history, i));
        }
        free(again);
        chaos_history_destroy(twin);
    }
    free(first);
    chaos_history_destroy(history);
    return 0;
}

static const char *const seeds[] = {
    "{:index 0, :time 5, :type :invoke, :process 3, :f :publish, :node \"n1\", :value {:user 12, :events "
    "[[1041 1700000000123] [1042 -7]]}}\n"
    "{:index 1, :time 9, :type :ok, :process 3, :f :publish, :node \"n1\", :value {:user 12, :events [[1041 "
    "1700000000123 :accepted] [1042 -7 :window-full]]}}\n",
    "; a comment\n"
    "{:index 0, :time 5, :type :invoke, :process 0, :f :read, :value {:user 1, :level :session, :token [1 "
    "2]}}\n\n"
    "{:index 1, :time 5, :type :ok, :process 0, :f :read, :value {:user 1, :level :session, :events [[1 5] "
    "[2 "
    "6]], :found true, :age-us 12, :shard 2, :applied 77, :version 70}}\n",
    "{:index 0, :time 1, :type :invoke, :process 9, :f :upsert, :value {:item 4, :value "
    "18446744073709551615N}}\n"
    "{:index 1, :time 2, :type :info, :process 9, :f :upsert, :error \"no \\\"answer\\\" \\u000a in time\", "
    ":value {:item 4, :value 18446744073709551615N}}\n"
    "{:index 2, :time 3, :type :invoke, :process 1, :f :get, :value {:item 4, :level :linearizable}}\n"
    "{:index 3, :time 4, :type :ok, :process 1, :f :get, :value {:item 4, :level :linearizable, :found "
    "false}}\n",
    "{:index 0, :time 1, :type :invoke, :process :nemesis, :f :fault, :value {:name \"kill\", :what "
    "\"begin\"}}\n"
    "{:index 1, :time 1, :type :info, :process :nemesis, :f :fault, :node \"n7\", :value {:name \"kill\", "
    ":what "
    "\"begin\"}}\n"
    "{:index 2, :time 1, :type :invoke, :process 5, :f :status, :node \"n2\", :value {}}\n"
    "{:index 3, :time 1, :type :ok, :process 5, :f :status, :node \"n2\", :value {:groups [{:group 0, :leads "
    "true, "
    ":leader 1, :term 3, :commit 9, :applied 9, :hash-index 9, :hash 12345678901234567890N}]}}\n"
    "{:index 4, :time 1, :type :info, :process :nemesis, :f :ingest, :value {:user 1, :events [[5 6 7]], "
    ":name "
    "\"clicks\"}}\n"
    "{:index 5, :time 1, :type :invoke, :process 6, :f :similar, :value {:item 2, :level :local}}\n"
    "{:index 6, :time 1, :type :ok, :process 6, :f :similar, :value {:item 2, :level :local, :near [2 3], "
    ":found true}}\n",
};

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    if (n >= sizeof seeds / sizeof *seeds) {
        return 0;
    }
    size_t length = strlen(seeds[n]);
    struct chaos_history *history = read_bytes(seeds[n], length);
    DN_ASSERT(length <= max && history != NULL);
    chaos_history_destroy(history);
    memcpy(out, seeds[n], length);
    return length;
}
