/* abi.h: what every Go file sees of C. Including the public headers here makes
 * the C compiler compare each exported Go function with its declaration. */
#ifndef CMESH_ABI_H
#define CMESH_ABI_H

#include <errno.h>
#include <stdlib.h>

#include "cmesh.h"

/* cgo cannot spell `const char*`; it can spell a pointer to this. */
typedef const char cchar;

/* Winsock's numbers, as Python's errno has them; errno.h has others of the same names. */
#ifdef _WIN32
#undef ECONNREFUSED
#define ECONNREFUSED 10061
#undef ETIMEDOUT
#define ETIMEDOUT 10060
#endif

/* macOS and Windows have no EKEYREJECTED. */
#ifndef EKEYREJECTED
#define EKEYREJECTED EACCES
#endif

#endif
