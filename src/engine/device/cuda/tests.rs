//! Tests that need no GPU: messages, and nothing panics.

use cudarc::driver::sys;

use super::libraries::{CUBLASLT, CUDNN, Found, cudnn_version, judge, judge_driver, missing, oldest_driver};
use super::module::aligned;
use super::status::{CublasStatus, DriverStatus, Status};
use super::*;

#[test]
fn without_a_driver_opening_says_so() {
    // SAFETY: opening the driver's library runs its initialisers, which have no preconditions.
    if unsafe { sys::is_culib_present() } {
        println!("SKIPPED: there is a driver");
        return;
    }
    for vendor in [false, true] {
        let error = Cuda::open(0, &[], &[], vendor).unwrap_err();
        assert!(matches!(error, Error::NoDevice { device: "cuda", .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("cuda: libcuda.so.1") && text.contains("`device` cpu"), "{text}");
    }
}

#[test]
fn only_whole_fat_binaries_are_loaded() {
    // Magic, version 1, 16 bytes of header, then 12 that follow.
    let mut fatbin = [0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0, 12, 0, 0, 0, 0, 0, 0, 0].to_vec();
    fatbin.extend([7; 12]);
    assert_eq!(aligned(&fatbin).unwrap(), [0x10_0001_BA55_ED50, 12, 0x0707_0707_0707_0707, 0x0707_0707]);
    let refused = |bytes: &[u8], part: &str| {
        let error = aligned(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[], "build it where nvcc is found");
    refused(&fatbin[..fatbin.len() - 1], "a part of one");
    refused(&fatbin[..8], "no fat binary");
    refused(b".version 9.0 .target sm_90 and so on", "no fat binary");
    fatbin[8..16].fill(0xFF);
    refused(&fatbin, "a part of one");
}

#[test]
fn versions_are_judged_with_a_way_out() {
    assert_eq!(cudnn_version(91_205), [9, 12, 5]);
    assert_eq!(cudnn_version(8_907), [8, 9, 7]);
    let found = |version, cuda| Found { version, cuda, file: Some("/opt/lib/it.so".into()) };
    for (needed, version, cuda, driver) in [
        (&CUBLASLT, [12, 0, 0], 12_000, 12_000),
        (&CUBLASLT, [12, 9, 3], 12_090, 12_000),
        (&CUBLASLT, [13, 1, 0], 13_010, 13_000),
        (&CUDNN, [9, 0, 0], 12_030, 13_000),
    ] {
        let name = judge(needed, &found(version, cuda), driver).unwrap();
        assert_eq!(name, format!("{} {}.{}.{}", needed.name, version[0], version[1], version[2]));
    }
    let refused = |needed, version, cuda, driver, parts: &[&str]| {
        let error = judge(needed, &found(version, cuda), driver).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error:?}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let parts = ["cuDNN 8.9.7", "(/opt/lib/it.so)", "cuDNN 9 is needed", "nvidia-cudnn-cu12", "libcudnn9-cuda-12`"];
    refused(&CUDNN, [8, 9, 7], 12_010, 12_040, &parts);
    refused(&CUBLASLT, [11, 11, 3], 11_080, 13_000, &["12 or 13", "`pip install nvidia-cublas`", "libcublas-13-0`"]);
    refused(&CUBLASLT, [14, 0, 0], 14_000, 14_000, &["cuBLASLt 14.0.0", "12 or 13"]);
    let parts = ["for CUDA 13, the driver for CUDA 12.4", "newer driver", "nvidia-cublas-cu12", "libcublas-12-4`"];
    refused(&CUBLASLT, [13, 0, 0], 13_000, 12_040, &parts);
    let text = missing(&CUDNN, 13_000).to_string();
    assert!(text.starts_with("cuda: cuDNN was not found") && text.contains("nvidia-cudnn-cu13"), "{text}");
    for (built, oldest) in
        [("nvcc 12.4: sm_80", 12_000), ("nvcc 13.0: sm_90a, compute_90", 13_000), ("left out", 12_000)]
    {
        assert_eq!(oldest_driver(built), oldest, "{built}");
    }
    judge_driver(13_000, 13_000).unwrap();
    let text = judge_driver(12_080, 13_000).unwrap_err().to_string();
    assert!(text.contains("CUDA 12.8, 13.0 or newer") && text.contains("nvidia.com/drivers"), "{text}");
}

/// No library is needed: the texts come from the codes.
#[test]
fn codes_become_sentences_without_a_library() {
    assert!(DriverStatus::CUDA_SUCCESS.check("x").is_ok());
    let text = DriverStatus::CUDA_ERROR_ILLEGAL_ADDRESS.check("waiting for the GPU").unwrap_err().to_string();
    assert!(text.starts_with("cuda, waiting for the GPU: CUDA_ERROR_ILLEGAL_ADDRESS (700), "), "{text}");
    assert!(text.ends_with("start the program again"), "{text}");
    let text = DriverStatus::CUDA_ERROR_INVALID_VALUE.check("launching f").unwrap_err().to_string();
    assert_eq!(text, "cuda, launching f: CUDA_ERROR_INVALID_VALUE (1)");
    let text = CublasStatus::CUBLAS_STATUS_NOT_SUPPORTED.check("multiplying").unwrap_err().to_string();
    assert_eq!(text, "cuda, multiplying: CUBLAS_STATUS_NOT_SUPPORTED (15)");
    // Of a library that is newer than the list.
    let text = DriverStatus(4_000_000_000).check("waiting").unwrap_err().to_string();
    assert_eq!(text, "cuda, waiting: code 4000000000");
}
