//! Writes the launch functions: one typed function for each kernel, and one for each family of kernels that differ in the type of
//! their elements only. That of a family (`add` for `add_f32` and `add_bf16`) picks the kernel by the GPU's precision. Also writes the
//! struct that kernels take by value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::signatures::{IntStruct, Kernel, Parameter};

const SUFFIXES: [&str; 3] = ["f32", "tf32", "bf16"];

pub fn write(kernels: &[Kernel], sizes: &IntStruct, path: &Path) {
    let mut text = declaration(sizes);
    text.push_str("\n/// Every kernel of `kernels/`.\npub static ALL: &[Kernel] = &[\n");
    for (index, Kernel { name, threads, parameters }) in kernels.iter().enumerate() {
        let bytes: String = parameters.iter().map(|p| format!("size_of::<{}>(), ", rust_type(p))).collect();
        let writes: Vec<Option<bool>> = parameters.iter().map(|p| p.pointer.then_some(!p.is_const)).collect();
        writeln!(
            text,
            "    Kernel {{ name: {name:?}, threads: {threads}, index: {index}, parameter_bytes: &[{bytes}], writes: &{writes:?} }},"
        )
        .unwrap();
    }
    text.push_str("];\n");
    kernels.iter().enumerate().for_each(|(index, kernel)| text.push_str(&launch(index, kernel)));

    let mut families: BTreeMap<&str, Vec<(&str, &Kernel)>> = BTreeMap::new();
    for kernel in kernels {
        if let Some((base, suffix)) = kernel.name.rsplit_once('_').filter(|(_, s)| SUFFIXES.contains(s)) {
            families.entry(base).or_default().push((suffix, kernel));
        }
    }
    // A kernel of one type only has no family, and neither has `cast_f32_bf16`.
    families.retain(|_, members| members.len() > 1);
    families.iter().for_each(|(base, members)| text.push_str(&family(base, members)));
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn declaration(IntStruct { name, fields }: &IntStruct) -> String {
    let fields: String = fields.iter().map(|field| format!("    pub {field}: i32,\n")).collect();
    format!(
        "/// `struct {name}` of `kernels/`, with the same layout.\n#[repr(C)]\n#[derive(Clone, Copy, Debug)]\n#[allow(missing_docs)]\npub struct {name} {{\n{fields}}}\n"
    )
}

fn launch(index: usize, kernel: &Kernel) -> String {
    let declared = kernel.parameters.iter().map(|p| format!(", {}: {}", p.name, rust_type(p))).collect::<String>();
    let arguments = kernel.parameters.iter().map(|p| format!("argument(&{}), ", p.name)).collect::<String>();
    format!(
        "\n/// {}\n#[allow(clippy::too_many_arguments, dead_code)]\npub fn {}(gpu: &Gpu, grid: impl Into<Grid>{declared}) -> \
         Result<()> {{\n    gpu.launch(&ALL[{index}], grid.into(), &mut [{arguments}])\n}}\n",
        document(kernel),
        kernel.name,
    )
}

/// Writes the function of a family. A parameter whose type differs between the members is an address of any type.
fn family(base: &str, members: &[(&str, &Kernel)]) -> String {
    let first = members[0].1;
    let differs = |i: usize| members.iter().any(|(_, kernel)| kernel.parameters[i].type_ != first.parameters[i].type_);
    for (_, kernel) in members {
        let names = |kernel: &Kernel| kernel.parameters.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(kernel).len(), names(first).len(), "{} and {} differ in parameters", kernel.name, first.name);
    }
    let (mut declared, mut passed) = (String::new(), String::new());
    for (i, parameter) in first.parameters.iter().enumerate() {
        let name = &parameter.name;
        if differs(i) {
            write!(declared, ", {name}: Ptr").unwrap();
            write!(passed, ", {name}.cast()").unwrap();
        } else {
            write!(declared, ", {name}: {}", rust_type(parameter)).unwrap();
            write!(passed, ", {name}").unwrap();
        }
    }
    let has = |suffix: &str| members.iter().any(|(s, _)| *s == suffix);
    let mut arms = String::new();
    for (variant, choices) in [("F32", &["f32"][..]), ("Tf32", &["tf32", "f32"]), ("Bf16", &["bf16"])] {
        match choices.iter().find(|suffix| has(suffix)) {
            Some(suffix) => {
                writeln!(arms, "        Precision::{variant} => {base}_{suffix}(gpu, grid{passed}),").unwrap()
            }
            None => writeln!(arms, "        Precision::{variant} => Err(gpu.no_kernel({base:?})),").unwrap(),
        }
    }
    format!(
        "\n/// The one of {} for the GPU's precision.\n#[allow(clippy::too_many_arguments, dead_code)]\npub fn {base}(gpu: &Gpu, \
         grid: impl Into<Grid>{declared}) -> Result<()> {{\n    match gpu.precision() {{\n{arms}    }}\n}}\n",
        members.iter().map(|(_, kernel)| format!("`{}`", kernel.name)).collect::<Vec<_>>().join(", "),
    )
}

fn document(kernel: &Kernel) -> String {
    let parameters: Vec<String> = kernel.parameters.iter().map(Parameter::declaration).collect();
    format!("`{}({})`", kernel.name, parameters.join(", "))
}

fn rust_type(parameter: &Parameter) -> String {
    let scalar = match parameter.type_.as_str() {
        "float" => "f32",
        "double" => "f64",
        "int" => "i32",
        "unsigned" => "u32",
        "long long" => "i64",
        "unsigned char" => "u8",
        "bf16" => "bf16",
        "ConvSizes" => "ConvSizes",
        other => panic!("no Rust type is known for {other}, of parameter {}", parameter.name),
    };
    if parameter.pointer { format!("Ptr<{scalar}>") } else { scalar.into() }
}
