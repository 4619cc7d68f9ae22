/* cmocka.h wants these first, in this order. */
#ifndef DN_TESTS_UNIT_BASE_CMOCKA_ALL_H
#define DN_TESTS_UNIT_BASE_CMOCKA_ALL_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#endif
