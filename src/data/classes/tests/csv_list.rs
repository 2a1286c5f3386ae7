use std::fs;

use super::*;

const KIND: DatasetKind = DatasetKind::Csv;

/// Creates a folder with `list.csv` and the images a.png to f.png.
fn folder(list: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["img/a.png", "img/b.png", "img/c.png", "img/d.png", "img/e.png", "img/f.png"]);
    write(root.path(), "list.csv", list);
    root
}

const DIVIDED: &str = "\u{feff}Split, id ,LABEL,path\n\
    train,1,dog,img/a.png\n\
    train,2, cat ,\"img/b.png\"\n\
    validation,3,dog,img/c.png\n\
    Val,4,cat,img/d.png\n";

#[test]
fn columns_stand_in_any_order_and_paths_are_relative_to_the_list() {
    let root = folder(DIVIDED);
    let root = root.path();
    for (place, kind) in [
        (root.to_path_buf(), DatasetKind::Auto),
        (root.to_path_buf(), KIND),
        (root.join("list.csv"), DatasetKind::Auto),
    ] {
        let dataset = load(&place, kind);
        assert_eq!(
            (dataset.kind, dataset.label.as_str(), &dataset.classes[..]),
            (KIND, "csv", &["cat", "dog"].map(String::from)[..])
        );
        assert_eq!(shown(root, &dataset.train), [("img/a.png".to_string(), 1), ("img/b.png".to_string(), 0)]);
        assert_eq!(shown(root, &dataset.val), [("img/c.png".to_string(), 1), ("img/d.png".to_string(), 0)]);
        // Two images are in no line; a list that the user named itself warns of no others.
        match (place.is_dir(), &dataset.warnings[..]) {
            (false, []) => {}
            (true, [left_out]) => {
                assert!(left_out.contains(": 2 images are in no line of the list and left out ("), "{left_out}");
                assert!(left_out.contains("img/e.png") && left_out.contains("img/f.png"), "{left_out}");
            }
            (_, warnings) => panic!("{warnings:?}"),
        }
    }
    // Validation alone needs no training images, but has all classes.
    fs::remove_file(root.join("img/a.png")).unwrap();
    let dataset = load_classes(root, KIND, &TEST).unwrap();
    assert_eq!((dataset.train.len(), dataset.val.len(), dataset.classes.len()), (0, 2, 2));
    refused(root, KIND, &["1 of 4 images", "list.csv", "img/a.png"]);
}

#[test]
fn other_column_names_and_numbers_as_classes_work_without_splits() {
    let rows: String = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .zip([10, 9, 10, 9, 10, 9])
        .map(|(f, l)| format!("{l},img/{f}.png\n"))
        .collect();
    let root = folder(&format!("class,image\n{rows}"));
    let dataset = load(root.path(), DatasetKind::Auto);
    assert_eq!(dataset.classes, ["9", "10"]);
    assert_eq!(dataset.label, "csv (20 % of each class for validation)");
    assert_eq!((dataset.train.len(), dataset.val.len()), (4, 2));
    let mut held_out = labels(&dataset.val);
    held_out.sort();
    assert_eq!(held_out, [0, 1]);
    // If one label is no number, all are sorted as text.
    let root = folder("file,label\nimg/a.png,10\nimg/b.png,9\nimg/c.png,x\n");
    assert_eq!(load(root.path(), KIND).classes, ["10", "9", "x"]);
}

#[test]
fn val_goes_before_test_and_repeated_lines_count_once() {
    let root = folder("path,label,split\nimg/a.png,x,train\nimg/a.png,x,train\nimg/b.png,x,val\nimg/c.png,x,test\n");
    let dataset = load(root.path(), KIND);
    assert_eq!((dataset.train.len(), shown(root.path(), &dataset.val)), (1, vec![("img/b.png".to_string(), 0)]));
    assert!(dataset.warnings[0].contains("1 line repeats an image"), "{:?}", dataset.warnings);
    assert!(dataset.warnings[2].contains("1 image of test is left out"), "{:?}", dataset.warnings);
    let root = folder("path,label,split\nimg/a.png,x,train\nimg/c.png,x,test\n");
    assert_eq!(load(root.path(), KIND).val.len(), 1);
}

#[test]
fn which_list_is_meant() {
    let root = folder(DIVIDED);
    let root = root.path();
    // A CSV file with other columns does not disturb recognition, but is an error if the form was named.
    write(root, "results.csv", "epoch,loss\n1,2\n");
    assert_eq!(load(root, DatasetKind::Auto).kind, KIND);
    refused(root, KIND, &["several CSV files", "list.csv", "results.csv"]);
    write(root, "manifest.csv", "path,label\nimg/e.png,1\nimg/f.png,2\n");
    assert_eq!(load(root, DatasetKind::Auto).classes, ["1", "2"]);
    assert_eq!(load(root, KIND).classes, ["1", "2"]);
    let root = tempfile::tempdir().unwrap();
    refused(root.path(), KIND, &["it has no CSV file"]);
}

#[track_caller]
fn bad(list: &str, parts: &[&str]) {
    let root = folder(list);
    refused(&root.path().join("list.csv"), KIND, parts);
}

#[test]
fn errors_name_the_line() {
    bad("", &["list.csv, line 1", "it is empty", "columns path and label"]);
    bad("path,label\n", &["it lists no image"]);
    bad("path,name\nimg/a.png,x\n", &["line 1", "no column label or class (it has path, name)"]);
    bad("label|path\nx|img/a.png\n", &["line 1", "no column path or image or file", "(it has label|path)", "commas"]);
    bad("a,b\nx,img/a.png\n", &["no column path or image or file and no column label or class (it has a, b)"]);
    bad("path,label,label\nimg/a.png,x,y\n", &["line 1", "the column label more than once"]);
    bad("path;Label;label\nimg/a.png;x;y\n", &["line 1", "the column label more than once"]);
    bad("path,label\nimg/a.png,x\n ,y\n", &["line 3", "its path is empty"]);
    bad("path,label\nimg/a.png,x\nimg/b.png,\n", &["line 3", "its label is empty"]);
    bad(
        "path,label,split\nimg/a.png,x,train\nimg/b.png,x,dev\n",
        &["line 3", "its split is \"dev\"", "train, val or test"],
    );
    bad("path,label\nimg/a.png,x\nimg/b.png,x,1\n", &["line 3", "3 fields, the header has 2"]);
    for list in [
        "path,label\nimg/a.png,x\nimg/b.png,\"x\nimg/c.png,y\n",
        "path,label\nimg/a.png,x\nimg/b.png,\"x\nimg/c.png,y\"\n",
        "path,label\nimg/a.png,x\n\"img/b.png,x\nimg/c.png,y\n",
    ] {
        bad(list, &["line 3", "a quotation mark in it is not closed"]);
    }
    bad("path,\"label\nimg/a.png,x\n", &["line 1", "a quotation mark in it is not closed"]);
    bad("path,label\nimg/a.png,x\nimg/\0.png,x\n", &["line 3", "a character that no file name has"]);
    bad("path,label\nimg/a.png,x\nno.png,x\nno2.png,x\nno3.png,x\n", &["3 of 4 images", "no.png"]);
    bad(
        "path,label\nimg/a.png,x\nimg/b.png,x\nimg/a.png,y\n",
        &["line 4", "is in line 2, too", "label x, here with y"],
    );
    bad("path,label,split\nimg/a.png,x,train\n./img/a.png,x,val\n", &["line 3", "line 2, too", "another split"]);
    bad("path,label,split\nimg/a.png,x,train\nimg/b.png,y,val\n", &["1 class has validation images", "(y)"]);
    bad("path,label,split\nimg/a.png,x,val\n", &["has no train images"]);
    let root = folder("");
    write(root.path(), "list.csv", b"path,label\nimg/a.png,\xff\xfe\n");
    refused(root.path(), KIND, &["line 2", "no UTF-8"]);
}

#[test]
fn lines_are_counted_behind_quotes_and_empty_lines() {
    bad("path,label,note\nimg/a.png,x,\"two\nlines\"\nimg/b.png,,n\n", &["line 4", "label is empty"]);
    bad("path,label\r\nimg/a.png,x\r\nimg/b.png,\r\n", &["line 3", "label is empty"]);
    bad("path,label\n\n\nimg/b.png,\n", &["line 4", "label is empty"]);
    bad("\u{feff}path,label\nimg/b.png,\n", &["line 2", "label is empty"]);
    bad("path,label\r\n\r\nimg/a.png,x\r\nimg/a.png,y", &["line 4", "is in line 3, too"]);
    bad("path,label\r\nimg/a.png,x\r\nimg/b.png\r\n", &["line 3", "1 field"]);
}

#[test]
fn lists_of_other_programs_and_systems_are_read() {
    let want = load(folder(DIVIDED).path(), KIND);
    let (semicolons, tabs) = (DIVIDED.replace(',', ";"), DIVIDED.replace(',', "\t"));
    let windows = DIVIDED.replace('/', "\\");
    let dotted = DIVIDED.replace("img/", "./img/");
    let quoted = "\"Split\", \"LABEL\", \"path\"\n\"train\", \"dog\", \"img/a.png\"\ntrain,cat,img/b.png\nval,dog,img/c.png\nval,cat,img/d.png\n";
    let wide: Vec<u8> = DIVIDED.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [semicolons.as_str(), &tabs, &windows, &dotted, quoted].map(str::as_bytes);
    for text in texts.into_iter().chain([&wide[..]]) {
        let root = folder("");
        write(root.path(), "list.csv", text);
        for kind in [DatasetKind::Auto, KIND] {
            let dataset = load(root.path(), kind);
            assert_eq!(
                (&dataset.classes, labels(&dataset.train), labels(&dataset.val)),
                (&want.classes, vec![1, 0], vec![1, 0])
            );
            assert!(dataset.train.iter().all(|sample| sample.image.file().is_file()));
        }
    }
    bad("path,label\nC:\\data\\a.png,x\n", &["1 of 1 image", "Windows machine"]);
    bad("path,label\nimg\\no.png,x\n", &["1 of 1 image", "Windows' separators"]);
    bad("path,label\n/elsewhere/a.png,x\n", &["1 of 1 image", "perhaps of another machine"]);
}

#[test]
fn a_csv_file_that_is_no_list_is_named_beside_folders() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["part_1/a.png", "part_1/b.png", "part_2/c.png", "part_2/d.png"]);
    write(root, "metadata.csv", "image_id,dx\na,mel\n");
    let dataset = load(root, DatasetKind::Auto);
    assert_eq!(dataset.kind, DatasetKind::ClassFolders);
    let warning = dataset.warnings.last().unwrap();
    for part in [
        "metadata.csv is not read",
        "no column path or image or file and no column label or class",
        "(it has image_id, dx)",
    ] {
        assert!(warning.contains(part), "{part} in {warning}");
    }
    write(root, "train.csv", "path,label\npart_1/a.png,x\n");
    write(root, "test.csv", "path,label\npart_2/c.png,x\n");
    let warnings = load(root, DatasetKind::Auto).warnings.join("\n");
    assert!(warnings.contains("train.csv lists images and is not read") && warnings.contains("test.csv"), "{warnings}");
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "metadata.csv", "image_id,dx\na,mel\n");
    refused(
        root.path(),
        DatasetKind::Auto,
        &["no CSV file with the columns", "metadata.csv is not read: it has no column"],
    );
}
